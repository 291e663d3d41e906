"""What requests and answers on sweeps look like."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from app.examples import JOB_ID, example, example_list
from app.flat import flat
from app.jobs.models import JobState
from app.jobs.schemas import Submission
from app.pages import Page
from app.sweeps.models import Sweep
from app.sweeps.plan import varied, what_it_does
from eggs_core.pattern import NMPattern
from eggs_core.report import Verdict
from eggs_core.spec import CalibrationSpec, Effort, Method, MinDegree, PruneSpec, Spec

SWEEP_ID = "sweep_01jv3k0s9e6x7q2m4n8p5r1t0w"
_LINKS = {"self": f"/v1/sweeps/{SWEEP_ID}", "jobs": f"/v1/jobs?sweep={SWEEP_ID}"}
_SUMMARY: dict[str, Any] = {
    "object": "sweep",
    "id": SWEEP_ID,
    "name": "which method",
    "metadata": {},
    "model": "smollm2-135m-instruct",
    "state": "succeeded",
    "jobs": {"succeeded": 2},
    "created_at": "2026-05-04T09:19:58.120000Z",
    "completed_at": "2026-05-04T09:41:12.480000Z",
    "links": _LINKS,
}
_TRIAL: dict[str, Any] = {
    "label": "method=ria",
    "change": {"method": "ria"},
    "job_id": JOB_ID,
    "shared": True,
    "state": "succeeded",
    "figures": {
        "texts": [{"source": "pydocs", "dense": 20.4, "pruned": 151.3, "ratio": 7.42}],
        "packed_bytes": None,
        "verdict": None,
    },
}
SWEEP = _SUMMARY | {"trials": [_TRIAL], "best": 0}


class TrialChange(Spec):
    """What a trial does otherwise than the sweep says; what is left out stays."""

    model_config = example(_TRIAL["change"])

    pattern: NMPattern | None = Field(None, json_schema_extra={"default": None})
    method: Method | None = Field(None, description="The sweep's `effort` and `min_degree` go with its method.")
    effort: Effort | None = None
    min_degree: MinDegree | None = None
    permute: bool | None = None
    ignore: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] | None = Field(
        None, max_length=256
    )
    calibration: CalibrationSpec | None = Field(None, description="Only what differs.")

    @property
    def given(self) -> dict[str, Any]:
        """As the request has it. What has no null in a run is left as the sweep says, if it is null here."""
        given = self.model_dump(mode="json", exclude_unset=True)
        nullable = ("effort", "min_degree", "permute")
        return {name: value for name, value in given.items() if value is not None or name in nullable}

    @property
    def label(self) -> str:
        """The change in one line."""
        return ", ".join(f"{name}={value}" for name, value in flat(self.given)) or "as the sweep says"


class SweepCreate(Submission):
    """Several trials over one model: a run, and what each trial does otherwise."""

    model_config = example(
        {
            "model": "smollm2-135m-instruct",
            "name": "which method",
            "trials": [{}, {"method": "ria"}, {"pattern": "4:8"}],
        }
    )

    trials: list[TrialChange] = Field(
        min_length=2, max_length=32, description="An empty one is the run as it stands."
    )
    share_calibration: bool = Field(
        True,
        description="Measures trials that differ in nothing but their method in one job where it can, from one "
        "calibration pass (see `compare` of a job): much faster, but the inputs of every block are those of the "
        "job's own method, and only that one's model is kept. `false` gives every trial a job and a model.",
    )

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        if self.evaluation is None:
            raise ValueError("A sweep compares its trials on evaluation texts. Ask for some.")
        if self.compare:
            raise ValueError("The trials of a sweep are what is compared. Make trials of the methods in compare.")
        return self

    @model_validator(mode="after")
    def _trials_are_runs(self) -> Self:
        seen: dict[str, int] = {}
        for number, run in enumerate(self.runs(), 1):
            same = seen.setdefault(str(what_it_does(run)), number)
            if same != number:
                raise ValueError(f"Trial {number} is the same run as trial {same}. Leave one out.")
        return self

    def runs(self) -> Iterator[PruneSpec]:
        """What each trial runs."""
        base = self.spec
        for number, change in enumerate(self.trials, 1):
            try:
                yield varied(base, change.given)
            except ValidationError as error:
                reasons = "; ".join(reason["msg"].removeprefix("Value error, ") for reason in error.errors())
                raise ValueError(f"Trial {number}: {reasons}") from error


class TrialText(BaseModel):
    """Perplexities on one evaluation text."""

    source: str
    dense: float
    pruned: float
    ratio: float = Field(description="pruned / dense")


class TrialFigures(BaseModel):
    """What came of a trial; its job's report has the rest."""

    texts: list[TrialText] = Field(description="In the order of the request.")
    packed_bytes: int | None = Field(description="Of the packed checkpoint, where the trial has left one.")
    verdict: Verdict | None = Field(description="Where `accept_if` was asked for.")


class TrialResource(BaseModel):
    """One trial, and what came of it."""

    model_config = example(_TRIAL)

    label: str = Field(description="What it does otherwise, in one line.")
    change: dict[str, Any] = Field(description="As it was asked for.")
    job_id: str = Field(description="The job that measures it.")
    shared: bool = Field(description="Whether that is the job of another trial; it leaves no model then.")
    state: JobState = Field(description="Of the job.")
    figures: TrialFigures | None = Field(description="Once the job has succeeded.")


class SweepLinks(BaseModel):
    """Where to go on from a sweep."""

    model_config = example(_LINKS)

    self: str = Field(description="The sweep.")
    jobs: str = Field(description="Its jobs.")


class SweepSummary(BaseModel):
    """A sweep and how it stands."""

    model_config = example(_SUMMARY)

    object: Literal["sweep"] = "sweep"
    id: str = Field(description="Sorts by creation.")
    name: str | None
    metadata: dict[str, str]
    model: str
    state: JobState = Field(
        description="`queued` until a job has started, `running` until all have ended; then `failed` if one has "
        "failed, `cancelled` if one was cancelled, or `succeeded`."
    )
    jobs: dict[JobState, int] = Field(description="How many are in each state that has some.")
    created_at: datetime
    completed_at: datetime | None = Field(description="When the last of its jobs ended.")
    links: SweepLinks

    @classmethod
    def fields(cls, sweep: Sweep, jobs: dict[JobState, int]) -> dict[str, Any]:
        """What is the same in a list and alone."""
        return {
            "id": sweep.id,
            "name": sweep.name,
            "metadata": sweep.metadata_,
            "model": sweep.model,
            "state": state_of(jobs),
            "jobs": {state: jobs[state] for state in JobState if state in jobs},  # in the order of their lives
            "created_at": sweep.created_at,
            "completed_at": sweep.completed_at,
            "links": SweepLinks(self=f"/v1/sweeps/{sweep.id}", jobs=f"/v1/jobs?sweep={sweep.id}"),
        }


class SweepResource(SweepSummary):
    """A sweep with its trials side by side."""

    model_config = example(SWEEP)

    trials: list[TrialResource] = Field(description="In the order of the request.")
    best: int | None = Field(
        description="Of those that have figures, the place in `trials` of the one with the least geometric mean "
        "of perplexity ratios over the texts; rejected ones come last."
    )


class SweepList(Page[SweepSummary, str]):
    """One page of sweeps, newest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_SUMMARY)


def state_of(jobs: dict[JobState, int]) -> JobState:
    """Of a sweep whose jobs are in these states; see `SweepSummary`."""
    if set(jobs) == {JobState.QUEUED}:
        return JobState.QUEUED
    for state in (JobState.FAILED, JobState.CANCELLED):
        if state in jobs and all(other.final for other in jobs):
            return state
    return JobState.SUCCEEDED if set(jobs) == {JobState.SUCCEEDED} else JobState.RUNNING
