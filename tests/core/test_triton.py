"""The GPU's kernels in Triton's interpreter, which must be chosen before Triton is imported; and compiled, which
takes no GPU."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eggs_core.b_matching import UNITS
from eggs_core.kernels import triton_auction, triton_b_matching, triton_linear
from eggs_core.pattern import NMPattern


def test_the_triton_kernels() -> None:
    patterns = ["2:4", "4:8", "1:4", "3:5", "7:24", "1:32", "4:4"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.core.triton_kernels", *patterns],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "all are right" in run.stdout


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, types: Mapping[str, str], constants: Mapping[str, object], capability: int) -> Any:
    """A kernel for GPUs of a compute capability, by the types of its arguments."""
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps")}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def product(pattern: NMPattern, tokens: int, dtype: str, capability: int) -> Any:
    pointers = dict.fromkeys(["x_ptr", "values_ptr", "bias_ptr", "y_ptr"], f"*{dtype}") | {"mask_ptr": "*u8"}
    sizes = dict.fromkeys(["tokens", "rows", "columns"], "i32")
    kernel, constants = triton_linear.compiled_for(tokens, pattern, biased=True)
    return compiled(kernel, pointers | sizes, constants, capability)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("pattern", "dtype"), [("2:4", "fp16"), ("2:4", "bf16"), ("2:4", "fp32"), ("7:24", "bf16")]
)
@pytest.mark.parametrize("tokens", [1, 16])
def test_products_compile_for_gpus(tokens: int, pattern: str, dtype: str, capability: int) -> None:
    assert product(NMPattern.parse(pattern), tokens, dtype, capability).asm["cubin"]


@pytest.mark.parametrize(("tokens", "most"), [(1, 9), (16, 10)])
@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(4, 8)], ids=str)
def test_products_take_few_instructions(pattern: NMPattern, tokens: int, most: int) -> None:
    """Of 32 weights, in a warp. An H100 can issue 18 while it reads as many dense ones of 16 bits from memory."""
    code = product(pattern, tokens, "bf16", 90).asm["sass"].splitlines()
    assert not any(re.search(r"\b(LDL|STL)\b", line) for line in code), "registers are spilled to memory"
    loops = [
        number - code.index(f"{label[1]}:")
        for number, line in enumerate(code)
        if (label := re.search(r"\bBRA (\w+);", line)) and f"{label[1]}:" in code[:number]
    ]
    _, constants = triton_linear.compiled_for(tokens, pattern, biased=True)
    weights = constants["ROWS"] * constants["UNITS"] * constants["JOINED"] * pattern.m / constants["num_warps"]
    assert max(loops) / (weights / 32) < most


@pytest.mark.parametrize("capability", [80, 90])
def test_auctions_compile_for_gpus(capability: int) -> None:
    types = {
        "cost_ptr": "*fp32",
        "price_ptr": "*fp64",
        "step_ptr": "*fp64",
        "owner_ptr": "*i64",
        "size": "i32",
        "bids_a_step": "i32",
    }
    assert compiled(triton_auction._kernel, types, {"SIZE": 512, "num_warps": 1}, capability).asm["cubin"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("pattern", ["2:4", "7:24"])
@pytest.mark.parametrize("kernel", ["take_kernel", "raise_kernel", "exchange_kernel"])
def test_b_matchings_compile_for_gpus(kernel: str, pattern: str, capability: int) -> None:
    source = getattr(triton_b_matching, kernel)
    numbers = dict.fromkeys(["rows", "columns", "rounds"], "i32")
    pointers = {"S_ptr": "*fp32", "unit_ptr": "*fp64", "kept_ptr": "*u8"}
    types = {name: (numbers | pointers).get(name, "*i64") for name in source.arg_names if not name.isupper()}
    constants = {"N": NMPattern.parse(pattern).n, "UNITS": UNITS} | triton_b_matching.sizes(
        NMPattern.parse(pattern)
    )
    constants = {name: value for name, value in constants.items() if name in (*source.arg_names, "num_warps")}
    assert compiled(source, types, constants, capability).asm["cubin"]
