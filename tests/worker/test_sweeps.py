"""A sweep in earnest: what its jobs share, and what trials that share a calibration pass are measured at."""

from threading import Event

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from app.sweeps import comparison, service
from app.sweeps.schemas import SweepCreate
from tests.app.build import principal_of
from tests.hub import HubServer, Repository, hub
from tests.tiny_models import MakeModel
from worker.runner import run_next

__all__ = ["hub"]

SHORT = {"samples": 2, "sequence_length": 32}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sweep_from_its_request_to_its_comparison(
    settings: Settings, sessions: sessionmaker[Session], make_model: MakeModel, hub: HubServer
) -> None:
    files = {file.name: file.read_bytes() for file in make_model("llama", max_shard_size="50KB").iterdir()}
    hub.repositories["acme/tiny"] = Repository(private=False, branches={"main": files})
    settings.allow_hub = True
    trials = [{"method": "magnitude"}, {"method": "ria"}, {"pattern": "1:4", "method": "ria"}]
    body = SweepCreate.model_validate(
        {"model": "acme/tiny", "trials": trials, "calibration": SHORT, "evaluation": SHORT | {"generations": 0}}
    )
    with sessions.begin() as session:
        sweep, _ = service.submit(session, settings, principal_of(sessions), body, None)
        sweep_id = sweep.id
    for _ in range(2):
        run_next(settings, sessions, Event())
    with sessions() as session:
        ended = comparison.resource(session, service.get(session, "default", sweep_id))
    assert (ended.state, ended.jobs) == ("succeeded", {"succeeded": 2})
    assert [trial.shared for trial in ended.trials] == [False, True, False]
    figures = [trial.figures for trial in ended.trials]
    assert all(entry is not None for entry in figures)
    dense = {entry.texts[0].dense for entry in figures if entry is not None}
    pruned = [entry.texts[0].pruned for entry in figures if entry is not None]
    assert len(dense) == 1, "one dense model, on one text"
    assert len(set(pruned)) == 3
    assert ended.best == pruned.index(min(pruned))
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    assert len(weights) > 1
    assert sorted(name for name in hub.downloads() if name in weights) == weights, "each once, for both jobs"
