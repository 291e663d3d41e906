"""A service in this process with jobs in every state, made as workers make them, for a browser to look at."""

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import torch
import uvicorn
from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from app import problems
from app.db import make_engine, make_sessions, utcnow
from app.examples import BLOCK_TRAINING, REPORT
from app.ids import new_id
from app.jobs import leases
from app.jobs.leases import Lease, NewArtifact
from app.jobs.models import Job, JobState
from app.jobs.schemas import JobCreate, PushResource
from app.keys import service as keys
from app.keys.scopes import Scope
from app.main import create_app
from app.migrate import upgrade
from app.server import config
from app.settings import Settings
from eggs_core.checkpoint import CheckpointWriter
from eggs_core.checksums import CHECKSUMS, sha256, write_checksums
from eggs_core.packing import pack
from eggs_core.packing_config import PackingConfig
from eggs_core.pattern import NMPattern
from eggs_core.report import Report
from eggs_core.spec import Effort
from tests.app.build import make_job
from tests.conftest import wait_for

MODEL = "smollm2-135m-instruct"
BLOCKS = 30
TYPES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTENT = b"weights" * 1000
SHAPES = {
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
MASKED = ("model.layers.0.self_attn.q_proj", f"model.layers.{BLOCKS - 1}.mlp.down_proj")


@dataclass(frozen=True)
class Service:
    url: str
    key: str
    settings: Settings
    sessions: sessionmaker[Session]


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """The application behind uvicorn, with a database of its own and a key that may do everything."""
    settings = Settings(
        data_dir=folder,
        database_url=f"sqlite:///{folder / 'eggs.sqlite3'}",
        allow_hub=False,
        webhook_allow_private=True,
    )
    settings.artifacts_dir.mkdir(parents=True)
    engine = make_engine(settings.database_url)
    upgrade(engine)
    sessions = make_sessions(engine)
    with sessions.begin() as session:
        _, key = keys.create(session, name="browser", scopes=list(Scope))
    server = uvicorn.Server(config(create_app(settings), "127.0.0.1", 0, log_level="warning"))
    thread = Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Service(f"http://127.0.0.1:{port}", key, settings, sessions)
    finally:
        server.should_exit = True
        thread.join()
        engine.dispose()


def posted(service: Service, path: str, **body: Any) -> Any:
    """What the API answers."""
    headers = {"Authorization": f"Bearer {service.key}"}
    return (
        httpx.post(f"{service.url}/v1/{path}", headers=headers, json=body or None, timeout=60)
        .raise_for_status()
        .json()
    )


def claim(service: Service, job_id: str) -> Lease:
    """A worker takes the job."""
    with service.sessions.begin() as session:
        lease = leases.claim(session, job_id, 3600, max_attempts=3, most_running=None)
    assert lease is not None
    return lease


def advance(service: Service, lease: Lease, block: int) -> None:
    """The worker has pruned a block."""
    with service.sessions.begin() as session:
        leases.record_progress(
            session,
            lease,
            progress=0.05 + 0.85 * block / BLOCKS,
            stage="prune",
            message=f"Pruning, block {block} of {BLOCKS}",
            data={"block": block - 1, "blocks": BLOCKS},
        )


def report_of(body: dict[str, Any], *, quality: float = 1.0) -> dict[str, Any]:
    """A report like those of a model of 30 blocks; a larger `quality` is a worse one, made sooner, and slower."""
    report = copy.deepcopy(REPORT)
    request = JobCreate.model_validate(body)
    report["spec"] = request.spec.model_dump(mode="json")
    report["method"], report["effort"] = request.method, request.spec.effective_effort
    if request.accept_if is None:
        report["acceptance"] = None
    perplexity = report["evaluation"]["texts"][0]["perplexity"]
    for place in (perplexity, perplexity["pruned_interval"], perplexity["ratio_interval"]):
        for name in set(place) - {"dense", "tokens"}:
            if isinstance(place[name], float):
                place[name] *= quality
    if request.spec.effective_effort is Effort.BEST:
        report["training"] = [
            BLOCK_TRAINING | {"block": block, "error_after": 0.0087 - 0.0001 * block} for block in range(BLOCKS)
        ]
    if quality > 1:
        report["evaluation"]["speed"].reverse()
        report["seconds"] |= {"prune": 16.9, "total": 45.3}
    (layer,) = report["layers"]
    report["layers"] = [
        layer
        | {
            "name": f"model.layers.{block}.{'self_attn' if number < 4 else 'mlp'}.{kind}",
            "type": kind,
            "block": block,
            "shape": SHAPES.get(kind, (576, 576)),
            "relative_output_error": quality
            * (0.01 + 0.004 * number + 0.02 * block / BLOCKS + 0.003 * math.sin(block + number)),
            "kept_importance": 0.999 - 0.002 * number - 0.001 * math.cos(block * 0.7),
            "min_input_degree": 4 + (block * 7 + number * 3) % 5,
            "second_singular_value": 0.078 + 0.006 * math.sin(block * 0.5 + number),
        }
        for block in range(BLOCKS)
        for number, kind in enumerate(TYPES)
    ]
    return Report.model_validate(report).model_dump(mode="json")


def write_masks(folder: Path, pattern: NMPattern) -> list[NewArtifact]:
    """Packed layers of a job with this pattern, in the folder of its files."""
    packed = folder / "packed"
    packed.mkdir()
    tensors = {}
    generator = torch.Generator().manual_seed(0)
    for name in MASKED:
        shape = SHAPES.get(name.rpartition(".")[2], (576, 576))
        groups = torch.rand(shape[0], shape[1] // pattern.m, pattern.m, generator=generator)
        kept = groups.argsort(dim=2) < pattern.n
        _, mask = pack(torch.where(kept, groups, 0.0).view(shape), pattern)
        tensors[f"{name}.weight_mask"] = mask
    writer = CheckpointWriter(packed, 1)
    writer.write(0, tensors)
    writer.finish()
    packing = PackingConfig(pattern=pattern, layers=dict.fromkeys(MASKED, "linear"))
    (packed / "config.json").write_text(json.dumps({"quantization_config": packing.written()}))
    return [NewArtifact(f"packed/{file.name}", file.stat().st_size, sha256(file)) for file in packed.iterdir()]


def succeed(service: Service, *, quality: float = 1.0, days: float | None = None, **body: Any) -> str:
    """The id of a job that has succeeded, with its report, files and their checksums."""
    request = {"model": MODEL, **body}
    job_id = make_job(service.sessions, **request)
    lease = claim(service, job_id)
    for block in (1, 15, BLOCKS):
        advance(service, lease, block)
    location = f"{job_id}.1"
    folder = service.settings.artifacts_dir / location
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(CONTENT)
    files = [NewArtifact("model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())]
    files += write_masks(folder, NMPattern.parse(body.get("pattern", "2:4")))
    write_checksums(folder, [folder / file.name for file in files])
    sums = folder / CHECKSUMS
    files.append(NewArtifact(sums.name, sums.stat().st_size, sha256(sums)))
    push = lease.push and PushResource(
        **lease.push.model_dump(include={"repo_id", "private", "revision"}),
        commit="8f14e45fceea167a",
        url=f"https://huggingface.co/{lease.push.repo_id}",
    )
    with service.sessions.begin() as session:
        leases.succeed(
            session,
            lease,
            report=report_of(request, quality=quality),
            artifacts=files,
            artifacts_dir=location,
            keep_for=None if days is None else timedelta(days=days),
            push=push,
        )
    return job_id


def make_many(service: Service, count: int, project: str = "many") -> str:
    """The token of a key in a project, which now has so many jobs more that have ended."""
    with service.sessions.begin() as session:
        key, token = keys.create(session, name="many", project=project, scopes=list(Scope))
        spec = JobCreate.model_validate({"model": MODEL}).spec.model_dump(mode="json")
        states = list(JobState)
        rows = [
            {
                "id": new_id("job"),
                "project": project,
                "key_id": key.id,
                "name": f"job {number:05}",
                "metadata_": {"team": "research"},
                "spec": spec,
                # None that this service's dispatcher would offer to workers.
                "state": states[2 + number % 3],
                "created_at": utcnow(),
            }
            for number in range(count)
        ]
        session.execute(insert(Job), rows)
    return token


def fail(service: Service, **body: Any) -> str:
    """The id of a job that has failed."""
    job_id = make_job(service.sessions, **{"model": MODEL, **body})
    lease = claim(service, job_id)
    problem = problems.document(
        "pattern-does-not-fit",
        "The pattern does not fit a layer",
        422,
        "model.layers.0.mlp.down_proj has 1530 input channels, which 4 does not divide. Ignore it or use 1:2.",
    )
    with service.sessions.begin() as session:
        leases.fail(session, lease, problem)
    return job_id
