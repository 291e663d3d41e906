import pytest
import torch

from eggs_core.expansion import expansion_figures, second_singular_value


def test_degrees() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    figures = expansion_figures(mask)
    assert (figures.min_input_degree, figures.mean_input_degree, figures.channels_cut_off) == (0, 1.0, 1)


@pytest.mark.parametrize("shape", [(6, 8), (96, 64), (64, 256)])
def test_second_singular_value_is_close_to_the_exact_one(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 1] = False  # a channel cut off
    normalised = mask.double() / mask.sum(1).double().sqrt()[:, None] / mask.sum(0).clamp(min=1).double().sqrt()
    exact = torch.linalg.svdvals(normalised)
    assert exact[0].item() == pytest.approx(1)
    assert second_singular_value(mask) == pytest.approx(exact[1].item(), rel=0.05)


def test_two_separate_halves_do_not_expand() -> None:
    mask = torch.block_diag(torch.ones(16, 16), torch.ones(16, 16)).bool()
    assert second_singular_value(mask) == pytest.approx(1, abs=1e-5)
