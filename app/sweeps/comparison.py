"""What has come of a sweep: its trials side by side."""

from collections import Counter
from collections.abc import Sequence
from math import prod

from sqlalchemy.orm import Session

from app.sweeps import repository
from app.sweeps.models import Sweep
from app.sweeps.repository import JobFigures
from app.sweeps.schemas import SweepResource, SweepSummary, TrialFigures, TrialResource, TrialText
from eggs_core.report import Verdict


def resource(session: Session, sweep: Sweep) -> SweepResource:
    """The sweep with what its jobs have come to so far."""
    found = repository.figures(session, sweep.id)
    trials = [
        TrialResource(
            label=trial["label"],
            change=trial["change"],
            job_id=trial["job_id"],
            shared=trial["place"] > 0,
            state=found[trial["job_id"]].state,
            figures=_figures(found[trial["job_id"]], trial["place"]),
        )
        for trial in sweep.trials
    ]
    states = Counter(job.state for job in found.values())
    return SweepResource(**SweepSummary.fields(sweep, states), trials=trials, best=_best(trials))


def _figures(job: JobFigures, place: int) -> TrialFigures | None:
    if job.texts is None:
        return None
    measured = [text["perplexity"] for text in job.texts]
    sources = [text["text"]["source"] for text in job.texts]
    if place == 0:
        pruned = [perplexity["pruned"] for perplexity in measured]
    else:
        assert job.compared is not None
        pruned = job.compared[place - 1]["perplexities"]
    return TrialFigures(
        texts=[
            TrialText(source=source, dense=text["dense"], pruned=value, ratio=value / text["dense"])
            for source, text, value in zip(sources, measured, pruned, strict=True)
        ],
        packed_bytes=job.packed_bytes if place == 0 else None,
        verdict=Verdict(job.verdict) if place == 0 and job.verdict is not None else None,
    )


def _best(trials: Sequence[TrialResource]) -> int | None:
    ranked = {
        place: (trial.figures.verdict is Verdict.REJECTED, _mean_ratio(trial.figures))
        for place, trial in enumerate(trials)
        if trial.figures is not None
    }
    return min(ranked, key=ranked.__getitem__, default=None)


def _mean_ratio(figures: TrialFigures) -> float:
    """The geometric mean over the texts."""
    return prod(text.ratio for text in figures.texts) ** (1 / len(figures.texts))
