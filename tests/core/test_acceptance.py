"""Whether a model is accepted: each criterion, on each text."""

import pytest
from pydantic import ValidationError

from app.examples import REPORT
from eggs_core.acceptance import judge
from eggs_core.report import Evaluation, Verdict
from eggs_core.spec import AcceptIf, PruneSpec


def evaluation(*figures: tuple[float, float, float]) -> Evaluation:
    """Texts with these ratios, divergences and agreements."""
    whole = Evaluation.model_validate(REPORT["evaluation"])
    (text,) = whole.texts
    texts = [
        text.model_copy(
            update={
                "text": text.text.model_copy(update={"source": f"text-{number}"}),
                "perplexity": text.perplexity.model_copy(update={"ratio": ratio}),
                "kl_divergence": divergence,
                "top1_agreement": agreement,
            }
        )
        for number, (ratio, divergence, agreement) in enumerate(figures)
    ]
    return whole.model_copy(update={"texts": texts})


def spec(**limits: float) -> PruneSpec:
    return PruneSpec(model="m", accept_if=AcceptIf(**limits))


@pytest.mark.parametrize(
    ("limits", "unmet"),
    [
        ({"perplexity_ratio": 1.2}, []),
        ({"perplexity_ratio": 1.19}, [("perplexity_ratio", "text-1", 1.2)]),
        ({"kl_divergence": 0.3}, []),
        ({"kl_divergence": 0.1}, [("kl_divergence", "text-1", 0.3)]),
        ({"top1_agreement": 0.8}, []),
        ({"top1_agreement": 0.95}, [("top1_agreement", "text-0", 0.9), ("top1_agreement", "text-1", 0.8)]),
        ({"perplexity_ratio": 1.1, "top1_agreement": 0.5}, [("perplexity_ratio", "text-1", 1.2)]),
    ],
)
def test_limits_hold_on_every_text(limits: dict[str, float], unmet: list[tuple[str, str, float]]) -> None:
    acceptance = judge(spec(**limits), evaluation((1.1, 0.1, 0.9), (1.2, 0.3, 0.8)))
    assert acceptance is not None
    assert len(acceptance.checks) == 2 * len(limits)
    assert [(c.criterion, c.source, c.value) for c in acceptance.checks if not c.met] == unmet
    assert acceptance.verdict is (Verdict.REJECTED if unmet else Verdict.ACCEPTED)


def test_nothing_is_judged_that_was_not_asked_for() -> None:
    assert judge(PruneSpec(model="m"), evaluation((9.0, 9.0, 0.0))) is None


@pytest.mark.parametrize("criterion", AcceptIf.model_fields)
@pytest.mark.parametrize("limit", ["1e999", "NaN"])
def test_a_limit_is_a_finite_number(criterion: str, limit: str) -> None:
    """A report repeats it, in JSON, which holds no other."""
    with pytest.raises(ValidationError, match=criterion):
        PruneSpec.model_validate_json(f'{{"model": "m", "accept_if": {{"{criterion}": {limit}}}}}')


@pytest.mark.parametrize("body", [{"accept_if": {}}, {"accept_if": {"perplexity_ratio": 1.1}, "evaluation": None}])
def test_requests_that_make_no_sense(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="accept_if"):
        PruneSpec.model_validate({"model": "m"} | body)
