"""Which jobs a sweep takes: one for each trial, or one for several that can share a calibration pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eggs_core.spec import MOST_COMPARED, ComparedSpec, Effort, Method, PruneSpec


@dataclass
class PlannedJob:
    """A job: `spec` is the run of its first trial, and compares it with the others."""

    spec: PruneSpec
    trials: list[int] = field(default_factory=list)
    """The trials it measures: the first is its own, then as in the `compare` of its spec."""


def varied(base: PruneSpec, change: dict[str, Any]) -> PruneSpec:
    """The run of a trial. Raises `ValidationError`.

    What belongs to the method of `base` goes with it, where the trial has another.
    """
    fields = base.model_dump(mode="json")
    if "method" in change and change["method"] != base.method:
        fields |= {"effort": None, "min_degree": None}
    fields["calibration"] |= change.get("calibration", {})
    return PruneSpec.model_validate(fields | {key: part for key, part in change.items() if key != "calibration"})


def plan(runs: Sequence[PruneSpec], *, share: bool) -> list[PlannedJob]:
    """The jobs for these runs, in their order; with `share`, as few as measure them all."""
    jobs: list[PlannedJob] = []
    # Those first that nobody can measure beside their own, so that the others find them.
    for index in sorted(range(len(runs)), key=lambda index: share and _is_comparable(runs[index])):
        run = runs[index]
        job = next((job for job in jobs if share and _measures(job.spec, run)), None)
        if job is None:
            jobs.append(PlannedJob(run, [index]))
        else:
            job.spec = job.spec.model_copy(update={"compare": (*job.spec.compare, _compared(run))})
            job.trials.append(index)
    return sorted(jobs, key=lambda job: job.trials[0])


def what_it_does(run: PruneSpec) -> dict[str, Any]:
    """The run with its defaults spelled out: equal for two runs that do the same."""
    return run.model_dump(mode="json") | {
        "effort": run.effective_effort,
        "min_degree": run.effective_min_degree,
        "permute": run.permutes,
    }


def _is_comparable(run: PruneSpec) -> bool:
    """Whether a comparison could say of it all that it asks for."""
    asked = run.evaluation
    plain = asked is not None and not asked.tasks and not asked.speed
    return (
        plain and run.accept_if is None and run.seeds == 1 and not run.permutes and run.effort is not Effort.BEST
    )


def _measures(job: PruneSpec, run: PruneSpec) -> bool:
    """Whether `job` measures `run` if it compares its own method with that one's."""
    compared = _compared(run) if _is_comparable(run) else None
    if compared is None or len(job.compare) == MOST_COMPARED:
        return False
    if compared.label in (job.label, *(entry.label for entry in job.compare)):
        return False
    (made,) = job.model_copy(update={"compare": (compared,)}).compared
    return what_it_does(made) == what_it_does(run)


def _compared(run: PruneSpec) -> ComparedSpec:
    return ComparedSpec(method=run.method, effort=run.effort if run.method is Method.EGGS else None)
