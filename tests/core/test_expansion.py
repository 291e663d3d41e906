import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from eggs_core.expansion import expansion_figures, neighbourhood_ratio, ramanujan_bound, second_singular_value
from eggs_core.masks import top_n_mask
from eggs_core.pattern import NMPattern
from tests.core.mask_problems import problems


def test_degrees() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    figures = expansion_figures(mask)
    assert (figures.min_input_degree, figures.mean_input_degree, figures.channels_cut_off) == (0, 1.0, 1)


@pytest.mark.parametrize("shape", [(6, 8), (96, 64), (64, 256), (512, 512)])
def test_second_singular_value_is_close_to_the_exact_one(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 1] = False  # a channel cut off
    normalised = mask.double() / mask.sum(1).double().sqrt()[:, None] / mask.sum(0).clamp(min=1).double().sqrt()
    exact = torch.linalg.svdvals(normalised)
    assert exact[0].item() == pytest.approx(1)
    assert second_singular_value(mask) == pytest.approx(exact[1].item(), rel=0.03)
    assert second_singular_value(mask) <= exact[1].item() * (1 + 1e-4)


def test_two_separate_halves_do_not_expand() -> None:
    mask = torch.block_diag(torch.ones(16, 16), torch.ones(16, 16)).bool()
    assert second_singular_value(mask) == pytest.approx(1, abs=1e-5)
    assert ramanujan_bound(16, 16) == pytest.approx(2 * math.sqrt(15) / 16)


def test_a_projective_plane_is_ramanujan_and_its_lines_meet_in_one_point() -> None:
    """The Fano plane: 7 points, 7 lines of 3 points, any two with one in common; singular values 3 and √2."""
    mask = torch.zeros(7, 7, dtype=torch.bool)
    for line in range(7):
        mask[[(line + point) % 7 for point in (0, 1, 3)], line] = True
    figures = expansion_figures(mask)
    assert figures.second_singular_value == pytest.approx(math.sqrt(2) / 3, abs=1e-5)
    assert figures.second_singular_value <= figures.ramanujan_bound == pytest.approx(2 * math.sqrt(2) / 3)
    assert figures.neighbourhood_ratio == pytest.approx(5 / 6)  # two lines have 6 edges to 5 points


def test_channels_with_the_same_neighbours_are_found() -> None:
    mask = torch.rand(64, 40, generator=torch.Generator().manual_seed(0)) < 0.1
    mask[0] = True
    apart = neighbourhood_ratio(mask)
    mask[:, 7] = False
    mask[:4, 7] = True
    mask[:, 31] = mask[:, 7]
    assert neighbourhood_ratio(mask) <= 0.5 < apart
    mask[:, 7] = False
    assert neighbourhood_ratio(mask) == 0


@given(problems())
def test_figures_stay_in_their_ranges(problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    figures = expansion_figures(top_n_mask(S, pattern))
    assert 0 <= figures.neighbourhood_ratio <= 1
    assert (figures.neighbourhood_ratio == 0) == (figures.channels_cut_off > 0)
    assert 0 <= figures.second_singular_value <= 1 + 1e-5
    assert figures.ramanujan_bound >= 0
