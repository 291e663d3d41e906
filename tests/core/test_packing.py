"""The packed form of one matrix: nothing is lost, nothing damaged is taken."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eggs_core.errors import BrokenPack
from eggs_core.masks import top_n_mask
from eggs_core.packing import DTYPES, pack, packed_shapes, unpack, where_kept
from eggs_core.pattern import NMPattern

patterns = st.integers(1, 32).flatmap(lambda m: st.integers(1, m).map(lambda n: NMPattern(n, m)))
BITS = {2: torch.int16, 4: torch.int32}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Also where they are NaN, or zeros of different signs."""
    integers = BITS[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


@st.composite
def pruned(draw: st.DrawFn) -> tuple[Tensor, NMPattern]:
    """A pruned matrix of any size, with any bits where it is kept: NaN, infinity, denormals, zeros of both
    signs."""
    pattern = draw(patterns)
    rows, columns = draw(st.integers(1, 6)), pattern.m * draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    integers = BITS[torch.empty((), dtype=dtype).element_size()]
    info = torch.iinfo(integers)
    bits = torch.randint(info.min, info.max, (rows, columns), generator=generator, dtype=integers)
    mask = top_n_mask(torch.rand(rows, columns, generator=generator), pattern)
    fewer = torch.rand(rows, columns, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return bits.masked_fill(~mask | fewer, 0).view(dtype), pattern


@given(pruned())
def test_unpacking_gives_back_every_bit(problem: tuple[Tensor, NMPattern]) -> None:
    W, pattern = problem
    values, mask = pack(W, pattern)
    assert same_bits(unpack(values, mask, pattern), W)
    assert values.dtype == W.dtype
    assert values.nbytes == W.nbytes // pattern.m * pattern.n
    groups = W.shape[1] // pattern.m
    assert mask.nbytes == len(W) * -(-groups * (pattern.m - (pattern.m in (2, 4, 8))) // 8)


def test_two_of_four_in_bfloat16_take_35_of_64_bits() -> None:
    W = torch.randn(64, 256).bfloat16()
    W[:, 2::4] = W[:, 3::4] = 0
    assert sum(part.nbytes for part in pack(W, NMPattern(2, 4))) / W.nbytes == 35 / 64


@pytest.mark.parametrize("pattern", [NMPattern(2, 4), NMPattern(1, 4), NMPattern(1, 2), NMPattern(8, 16)], ids=str)
def test_the_reader_of_the_page_reads_it(pattern: NMPattern) -> None:
    page = (Path(__file__).parents[2] / "docs" / "packed-format.md").read_text()
    (reader,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(reader, names)
    W = torch.randn(5, 48)
    W = W.masked_fill(~top_n_mask(W.abs(), pattern), 0)
    assert torch.equal(names["unpack"](*pack(W, pattern), pattern.n, pattern.m), W)


def test_the_form_is_as_specified() -> None:
    """The example of docs/packed-format.md."""
    W = torch.tensor([[0, 1.5, 0, -2, 3, 0, 0, 0, 0, 0, 4, 5]], dtype=torch.float16)
    values, mask = pack(W, NMPattern(2, 4))
    assert values.tolist() == [[1.5, -2, 3, 0, 4, 5]]
    assert mask.tolist() == [[0b00001110, 0b00000001]]


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_any_layout_in_memory(layout: str) -> None:
    W = torch.zeros(8, 16)
    W[:, ::2] = torch.randn(8, 8)
    laid = W.T.contiguous().T if layout == "transposed" else torch.stack([W, W], dim=-1)[..., 0]
    assert not laid.is_contiguous()
    values, mask = pack(laid, NMPattern(2, 4))
    assert torch.equal(unpack(values, mask, NMPattern(2, 4)), W)


@pytest.mark.parametrize("shape", [(0, 16), (8, 0)])
def test_matrices_without_weights(shape: tuple[int, int]) -> None:
    values, mask = pack(torch.zeros(shape), NMPattern(2, 4))
    assert unpack(values, mask, NMPattern(2, 4)).shape == shape


@pytest.mark.parametrize(
    "W", [torch.ones(2, 8), torch.full((2, 8), -0.0), torch.ones(2, 6).double(), torch.ones(2, 7)]
)
def test_what_has_no_packed_form(W: Tensor) -> None:
    with pytest.raises(BrokenPack):
        pack(W, NMPattern(2, 4))


@given(pruned(), st.data())
def test_damage_is_refused_or_harmless(problem: tuple[Tensor, NMPattern], data: st.DataObject) -> None:
    """Whatever the mask, and whatever the shapes: an error that says so, or a matrix that keeps the pattern. A bit
    of a parity may say that another channel is kept, as one of a value may be that of another value; and where a
    group's are 0, nothing tells a matrix from one without that group but its shape, which a model knows."""
    W, pattern = problem
    values, mask = pack(W, pattern)
    case = data.draw(st.sampled_from(["bit", "mask rows", "mask columns", "values", "dtype", "dimensions"]))
    match case:
        case "bit" if mask.numel():
            mask.view(-1)[data.draw(st.integers(0, mask.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "mask rows":
            mask = torch.cat([mask, mask.new_zeros(1, mask.shape[1])])
        case "mask columns":
            mask = mask[:, :-1]
        case "values":
            values = values[:, :-1]
        case "dtype":
            mask = mask.to(torch.int8)
        case "dimensions":
            values = values.flatten()
        case _:
            return
    try:
        kept = where_kept(values, mask, pattern)
    except BrokenPack:
        with pytest.raises(BrokenPack):
            unpack(values, mask, pattern)
    else:
        assert case in ("bit", "values")
        assert pattern.m in (2, 4, 8)
        assert bool((kept.view(-1, pattern.m).sum(dim=1) == pattern.n).all())
        assert same_bits(unpack(values, mask, pattern)[kept].view(values.shape), values)


@pytest.mark.parametrize(("pattern", "bits"), [("1:4", 19), ("2:4", 35), ("4:8", 71), ("8:16", 144)])
def test_a_group_takes_its_values_and_its_mask(pattern: str, bits: int) -> None:
    """As docs/packed-format.md has it, in 16 bits."""
    nm = NMPattern.parse(pattern)
    values, mask = (math.prod(shape) for shape in packed_shapes((4096, 4096), nm))
    assert values * 2 + mask == 4096 * 4096 // nm.m * bits // 8
