"""Scores, patterns and minimum degrees for property tests of masks, and both ways to compute them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from eggs_core import kernels
from eggs_core.pattern import NMPattern


@contextmanager
def computed_by(way: str) -> Iterator[None]:
    """By the compiled kernels, or as on a GPU and where they were not built."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "torch":
            patch.setattr(kernels, "_compiled", None)
        yield


both_ways = pytest.mark.parametrize("way", ["kernels", "torch"])


@st.composite
def patterns(draw: st.DrawFn, max_m: int = 32) -> NMPattern:
    m = draw(st.integers(1, max_m))
    return NMPattern(draw(st.integers(1, m)), m)


@st.composite
def scores(draw: st.DrawFn, pattern: NMPattern, max_rows: int = 40, max_groups: int = 4) -> Tensor:
    """Random scores, some with ties, zero rows and zero columns."""
    rows = draw(st.integers(1, max_rows))
    columns = pattern.m * draw(st.integers(1, max_groups))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    S = torch.rand(rows, columns, generator=generator)
    if draw(st.booleans()):
        S = (S * 3).floor()  # ties
    if draw(st.booleans()):
        S[draw(st.integers(0, rows - 1))] = 0
    if draw(st.booleans()):
        S[:, draw(st.integers(0, columns - 1))] = 0
    return S


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, NMPattern, int]:
    """Scores, a pattern, and a minimum degree up to the largest possible."""
    pattern = draw(patterns())
    S = draw(scores(pattern))
    return S, pattern, draw(st.integers(0, pattern.n * S.shape[0] // pattern.m))
