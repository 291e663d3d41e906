"""Both clients against a real service: every resource, errors, and a job from its upload to its files."""

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

import eggs_client
from app.jobs import leases
from app.settings import Settings
from eggs_client import AsyncEggs, ClientError, Eggs
from tests.app.build import make_job
from tests.app.receiver import Receiver
from tests.app.test_cli import publish
from tests.app.test_jobs_api import finish
from tests.app.test_leases import must_claim
from tests.client.conftest import MakeClient
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from worker.runner import run_job

Sessions = sessionmaker[Session]
MODEL = "smollm2-135m-instruct"
SHORT = {"samples": 2, "sequence_length": 32}


def test_a_job_from_uploads_to_files(
    eggs: Any, settings: Settings, sessions: Sessions, make_model: MakeModel, tmp_path: Path
) -> None:
    packed = tmp_path / "tiny.tar.gz"
    with tarfile.open(packed, mode="w:gz") as archive:
        archive.add(make_model("llama", max_shard_size="50KB"), "tiny")
    notes = tmp_path / "notes.txt"
    notes.write_text("".join(f"Egg number {number} is boiled.\n" for number in range(1000)))
    model, text = eggs.files.upload(packed), eggs.files.upload(notes, name="boiled.txt")
    assert (model.type, text.type, text.name) == ("model", "text", "boiled.txt")
    assert [file.id for file in eggs.files.list()] == [text.id, model.id]
    assert eggs.files.get(text.id) == text
    assert eggs.files.download(text, tmp_path / "back").read_bytes() == notes.read_bytes()

    calibration = {"source": text.id, **SHORT}
    job = eggs.jobs.submit(model=model.id, calibration=calibration, evaluation={"sources": [text.id], **SHORT})
    assert (job.state, job.ended, job.spec.pattern) == ("queued", False, "2:4")
    with pytest.raises(eggs_client.Conflict, match=job.id) as used:
        eggs.files.delete(model.id)
    assert (used.value.code, used.value.problem["job_id"]) == ("file-in-use", job.id)
    with pytest.raises(eggs_client.NoFiles, match="It is queued"):
        job.download(tmp_path / "out")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(run_job, job.id, settings, sessions, Event())
        ended = job.wait(progress=True)
        run.result()
    assert (ended.state, ended.ended) == ("succeeded", True)
    report = ended.report()
    assert report.calibration.source == text.id
    assert report.evaluation.texts[0].perplexity.pruned > 1
    files = ended.download(tmp_path / "out", progress=True)
    assert {str(file.relative_to(tmp_path / "out")) for file in files} == {a.name for a in ended.artifacts()}
    assert (tmp_path / "out" / "packed" / "config.json").is_file()
    for file in (model, text):
        eggs.files.delete(file.id)
    assert list(eggs.files.list()) == []
    with pytest.raises(eggs_client.NotFound):
        eggs.files.delete(text.id)


def test_a_sweep(eggs: Any, sessions: Sessions) -> None:
    sweep = eggs.sweeps.submit(
        model=MODEL, trials=[{"method": "ria"}, {"pattern": "4:8"}], name="mine", idempotency_key="mine"
    )
    assert [job.sweep_id for job in eggs.jobs.list()] == [sweep.id] * 2
    assert [(found.id, found.name) for found in eggs.sweeps.list()] == [(sweep.id, "mine")]
    with pytest.raises(eggs_client.WaitedTooLong):
        eggs.sweeps.wait(sweep.id, timeout=0.5)
    finish(sessions, sweep.trials[0].job_id)
    eggs.jobs.cancel(sweep.trials[1].job_id)
    ended = eggs.sweeps.wait(sweep.id, progress=True)
    assert ended.completed_at is not None
    assert (ended.state, ended.best, ended.trials[0].figures.texts[0].pruned) == ("cancelled", 0, 130.1)
    with pytest.raises(eggs_client.Conflict):
        eggs.sweeps.cancel(sweep.id)
    assert eggs.sweeps.get(sweep.id) == ended


def test_lists_go_over_all_pages(eggs: Any, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_async", "_sync"):
        monkeypatch.setattr(f"eggs_client.{module}.transport.PAGE", 2)
    ids = [make_job(sessions) for _ in range(5)][::-1]
    assert [job.id for job in eggs.jobs.list()] == ids
    assert [job.id for job in eggs.jobs.list(limit=3)] == ids[:3]
    assert list(eggs.jobs.list(limit=0)) == []
    eggs.jobs.cancel(ids[1])
    assert [job.id for job in eggs.jobs.list(state="cancelled")] == [ids[1]]


def test_what_becomes_of_a_job_is_raised(eggs: Any, sessions: Sessions) -> None:
    failing, cancelled = eggs.jobs.submit(model=MODEL, name="mine"), eggs.jobs.submit(model=MODEL)
    assert cancelled.cancel().state == "cancelled"
    with pytest.raises(eggs_client.JobCancelled):
        cancelled.wait()
    assert [event.type for event in cancelled.events()] == ["job.queued", "job.cancelled"]
    assert list(cancelled.events(after=2)) == []
    with sessions.begin() as session:
        leases.fail(session, must_claim(sessions, failing.id), {"title": "Too little text", "detail": "3 of 32"})
    with pytest.raises(eggs_client.JobFailed, match="Too little text: 3 of 32"):
        failing.wait()
    assert failing.refresh().error == {"title": "Too little text", "detail": "3 of 32"}


def test_waiting_ends_in_time(make_client: MakeClient, sessions: Sessions) -> None:
    job = make_client().jobs.get(make_job(sessions))
    with pytest.raises(TimeoutError, match="not ended in time"):
        job.wait(timeout=0.3)


def test_problems_are_classes(eggs: Any, make_client: MakeClient) -> None:
    with pytest.raises(eggs_client.Invalid) as invalid:
        eggs.jobs.submit(model=MODEL, pattern="2-4", seed=3)
    assert invalid.value.type == "urn:eggs:problem:invalid-request"
    assert {error["pointer"] for error in invalid.value.errors} == {"/pattern", "/seed"}
    with pytest.raises(eggs_client.NotFound, match="No such job"):
        eggs.jobs.get("job_x")
    with pytest.raises(eggs_client.NotFound):
        eggs.jobs.get("../keys")
    with pytest.raises(eggs_client.NotFound):
        list(eggs.jobs.events("job_x"))
    with pytest.raises(eggs_client.Forbidden) as forbidden:
        list(eggs.keys.list())
    assert forbidden.value.status == 403
    with pytest.raises(eggs_client.Unauthenticated, match="not valid"):
        list(make_client(key="eggs_wrong").jobs.list())


def test_keys_and_the_audit_log(admin: Any) -> None:
    limits = {"running_jobs": 2}
    key = admin.keys.create(name="laptop", scopes=["jobs:read"], expires_at="2100-01-01T00:00:00Z", limits=limits)
    assert (key.limits.running_jobs, key.limits.queued_jobs) == (2, None)
    assert (key.name, key.scopes, key.expires_at.year) == ("laptop", ["jobs:read"], 2100)
    assert key.id in [one.id for one in admin.keys.list()]
    assert admin.keys.revoke(key.id).revoked_at is not None
    actions = [entry.action for entry in admin.audit.list(limit=2)]
    assert actions == ["key.revoked", "key.created"]


def test_the_catalog(eggs: Any) -> None:
    assert MODEL in [model.id for model in eggs.catalog.models()]
    assert "eggs" in [method.id for method in eggs.catalog.methods()]


def test_webhooks(admin: Any, receiver: Receiver) -> None:
    events = ["job.succeeded", "sweep.completed"]
    webhook = admin.webhooks.create(url=receiver.url, events=events, description="mine")
    assert webhook.events == events
    assert webhook.secret.startswith("whsec_")
    assert [one.id for one in admin.webhooks.list()] == [webhook.id]
    assert admin.webhooks.get(webhook.id).description == "mine"
    assert admin.webhooks.update(webhook.id, description="ours").description == "ours"
    ping = admin.webhooks.ping(webhook.id)
    wait_for(lambda: [one.state for one in admin.webhooks.deliveries(webhook.id)] == ["delivered"])
    received = receiver.received[0]
    assert received.verified(webhook.secret)["type"] == "webhook.ping"
    assert admin.webhooks.redeliver(webhook.id, ping.id).id == ping.id
    wait_for(lambda: len(receiver.received) == 2)
    assert admin.webhooks.rotate(webhook.id).secret != webhook.secret
    admin.webhooks.delete(webhook.id)
    assert list(admin.webhooks.list()) == []


def test_what_cannot_be_sent_is_said(eggs: Any) -> None:
    for job_id in ("", ".", ".."):
        with pytest.raises(eggs_client.InvalidRequest, match=f"'{job_id}' is no id"):
            eggs.jobs.get(job_id)
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(eggs_client.InvalidRequest, match="JSON"):
            eggs.jobs.submit(model=MODEL, accept_if={"perplexity_ratio": value})
    for key in ("ключ", "a\nb"):
        with pytest.raises(eggs_client.InvalidRequest, match="ASCII"):
            eggs.jobs.submit(model=MODEL, idempotency_key=key)
    assert list(eggs.jobs.list()) == []


@pytest.mark.parametrize("kind", [Eggs, AsyncEggs])
def test_what_cannot_be_right_is_said_at_once(
    kind: type[Eggs | AsyncEggs], monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("127.0.0.1:8000", "ftp://a", "http://", ""):
        with pytest.raises(eggs_client.InvalidConfiguration, match="no address of a service"):
            kind(url, "eggs_x")
    monkeypatch.delenv("EGGS_API_KEY", raising=False)
    for key in ("", "eggs_…", "eggs x", "eggs_x\n", None):
        with pytest.raises(ClientError, match="EGGS_API_KEY"):
            kind("http://127.0.0.1", key)
    monkeypatch.setenv("EGGS_API_KEY", "eggs_x")
    monkeypatch.setenv("EGGS_URL", "nowhere")
    with pytest.raises(ClientError, match="'nowhere'"):
        kind()


def test_a_damaged_download_is_not_kept(eggs: Any, sessions: Sessions, settings: Settings, tmp_path: Path) -> None:
    job_id = make_job(sessions)
    publish(sessions, settings, must_claim(sessions, job_id), {"model.safetensors": b"right"})
    for content in (b"wrong", b"longer than it should be", b"shrt"):
        (settings.artifacts_dir / job_id / "model.safetensors").write_bytes(content)
        with pytest.raises(ClientError):
            eggs.jobs.download(job_id, tmp_path / "out")
        assert not (tmp_path / "out" / "model.safetensors").exists()
    (artifact,) = eggs.jobs.artifacts(job_id)
    for name in ("../outside", "/etc/outside", "a/../../outside", "", "a\0b", "c:\\x"):
        with pytest.raises(eggs_client.UnsafeName, match="points outside"):
            eggs.jobs.download_artifact(artifact.model_copy(update={"name": name}), tmp_path / "out")
    assert not (tmp_path / "outside").exists()
    (settings.artifacts_dir / job_id / "model.safetensors").write_bytes(b"right")
    assert eggs.jobs.download(job_id, tmp_path / "out")[0].read_bytes() == b"right"


def test_downloads_are_not_mixed(eggs: Any, sessions: Sessions, settings: Settings, tmp_path: Path) -> None:
    jobs = [make_job(sessions) for _ in range(3)]
    for job_id, files in zip(
        jobs,
        ({"a.bin": b"first", "b/c": b""}, {"a.bin": b"other", "b/c": b""}, {"new": b"", "b/c": b""}),
        strict=True,
    ):
        publish(sessions, settings, must_claim(sessions, job_id), files)
    out = tmp_path / "out"
    eggs.jobs.download(jobs[0], out)
    for job_id in jobs[1:]:
        with pytest.raises(eggs_client.OutputExists, match=r"a\.bin"):
            eggs.jobs.download(job_id, out)
    assert {file.name for file in out.rglob("*")} == {"a.bin", "b", "c"}
    (out / "a.bin").rename(out / "a.bin.part")
    assert eggs.jobs.download(jobs[0], out)[0].read_bytes() == b"first"


def test_an_upload_is_read_as_it_is_sent(eggs: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.txt"
    large.write_text("An egg.\n" * 2_000_000)
    file = eggs.files.upload(large)
    assert file.bytes == os.path.getsize(large)
    empty = tmp_path / "wrong.exe"
    empty.write_bytes(b"MZ")
    with pytest.raises(eggs_client.ApiError):
        eggs.files.upload(empty)
    with pytest.raises(FileNotFoundError):
        eggs.files.upload(tmp_path / "none.txt")
