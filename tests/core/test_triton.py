"""The GPU's kernels in Triton's interpreter, which must be chosen before Triton is imported; and compiled, which
takes no GPU."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from eggs_core.kernels import triton_auction, triton_linear
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


def compiled(kernel: Any, types: Mapping[str, str], constants: Mapping[str, object], capability: int) -> bytes:
    """A kernel's machine code for GPUs of a compute capability, by the types of its arguments."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    code: bytes = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
    return code


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_products_compile_for_gpus(dtype: str, capability: int) -> None:
    pointers = dict.fromkeys(["x_ptr", "values_ptr", "bias_ptr", "y_ptr"], f"*{dtype}") | {"mask_ptr": "*u8"}
    sizes = dict.fromkeys(["tokens", "rows", "columns"], "i32")
    for pattern in (NMPattern(2, 4), NMPattern(7, 24)):
        constants = triton_linear.constants(pattern, biased=True)
        assert compiled(triton_linear._kernel, pointers | sizes, constants, capability)


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
    assert compiled(triton_auction._kernel, types, {"SIZE": 512}, capability)
