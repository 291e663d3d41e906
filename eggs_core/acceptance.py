"""Whether a pruned model keeps to what the request asks for."""

from operator import ge, le

from eggs_core.report import Acceptance, Check, Evaluation, Verdict
from eggs_core.spec import PruneSpec


def judge(spec: PruneSpec, evaluation: Evaluation | None) -> Acceptance | None:
    """The verdict on the published model; None where the request has no `accept_if`."""
    asked = spec.accept_if
    if asked is None or evaluation is None:
        return None
    checks = []
    for text in evaluation.texts:
        for criterion, limit, value, keeps_to in (
            ("perplexity_ratio", asked.perplexity_ratio, text.perplexity.ratio, le),
            ("kl_divergence", asked.kl_divergence, text.kl_divergence, le),
            ("top1_agreement", asked.top1_agreement, text.top1_agreement, ge),
        ):
            if limit is not None:
                met = bool(keeps_to(value, limit))
                checks.append(
                    Check(criterion=criterion, limit=limit, source=text.text.source, value=value, met=met)
                )
    verdict = Verdict.ACCEPTED if all(check.met for check in checks) else Verdict.REJECTED
    return Acceptance(verdict=verdict, checks=checks)
