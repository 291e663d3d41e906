"""The service under load: latencies while a worker prunes, lists over many jobs, and the memory of the API.

    python -m benchmarks.service [--rate 200] [--seconds 30] [--queued 1000] [--streams 200] [--stored 100000]
        [--requests 36000] [--processes 1]

`eggs serve` and a worker as an operator starts them, with the PostgreSQL and the Redis of this machine
(EGGS_TEST_POSTGRES_URL, EGGS_TEST_REDIS_URL), each in a database or a queue of its own. The load is open: requests
are sent at their rate whether or not the ones before were answered, and a latency counts from the moment at which
a request was due. The load comes from this process, on the same cores.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions, utcnow
from app.ids import new_id
from app.jobs.models import Job, JobState
from app.keys import service as keys
from benchmarks.random_llama import save_model
from benchmarks.results import keep

POSTGRES_URL = os.environ.get("EGGS_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("EGGS_TEST_REDIS_URL", "redis://127.0.0.1:6379/14")
EGGS = [sys.executable, "-c", "from app.cli.main import main; main()"]
FEW_JOBS = 100
LIST_REQUESTS = 300
MEMORY_PARTS = 6
CONNECTIONS = 32
LEAD_SECONDS = 1.0  # in which this process prepares the requests that it is to send at a rate
Row = dict[str, Any]


@contextmanager
def database() -> Iterator[str]:
    """A database of this run's own; it is gone afterwards."""
    server = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT")
    name = f"eggs_benchmark_{uuid.uuid4().hex[:12]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def installation(data: Path, database_url: str) -> dict[str, str]:
    """Settings of an installation of this run's own, with its data in a folder and a queue on the Redis."""
    return {
        "EGGS_DATA_DIR": str(data),
        "EGGS_DATABASE_URL": database_url,
        "EGGS_BROKER_URL": REDIS_URL,
        "EGGS_QUEUE_NAME": f"eggs-benchmark-{uuid.uuid4().hex[:12]}",
        "EGGS_PORT": "0",
    }


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(30)


def address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Where the service says that it is, once it answers."""
    while True:
        if server.poll() is not None:
            raise RuntimeError(log.read_text())
        found = re.search(r"The service is at (\S+)", log.read_text())
        try:
            if found and httpx.get(f"{found[1]}/readyz").status_code == 200:
                return found[1]
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def client(url: str, token: str) -> httpx.AsyncClient:
    """A client with a key."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60)


def key(sessions: sessionmaker[Session], project: str) -> tuple[str, str]:
    """A key of a project: its id, and the token to send."""
    with sessions.begin() as session:
        made, token = keys.create(session, name="benchmark", project=project)
        return made.id, token


def store(sessions: sessionmaker[Session], project: str, key_id: str, spec: dict[str, Any], count: int) -> None:
    """Stores jobs that have ended, one in a thousand as failed."""
    now = utcnow()
    rows = (
        {
            "id": new_id("job"),
            "project": project,
            "key_id": key_id,
            "metadata_": {},
            "spec": spec,
            "state": JobState.SUCCEEDED if i % 1000 else JobState.FAILED,
            "progress": 1.0,
            "created_at": now - timedelta(seconds=count - i),
            "finished_at": now,
        }
        for i in range(count)
    )
    with sessions.begin() as session:
        while part := list(islice(rows, 5000)):
            session.execute(insert(Job), part)
        session.execute(text("ANALYZE jobs"))


def latencies(name: str, seconds: list[float], **more: Any) -> Row:
    """A row of the table; milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    figures = {"p50 ms": cuts[49] * 1e3, "p95 ms": cuts[94] * 1e3, "p99 ms": cuts[98] * 1e3}
    return {"what": name, "requests": len(seconds), "requests/s": None, **figures, **more}


async def at_rate(send: Callable[[int], Awaitable[httpx.Response]], rate: float, count: int) -> list[float]:
    """Latencies of `count` requests that are due at an even rate."""
    began = time.perf_counter() + LEAD_SECONDS

    async def one(number: int) -> float:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        (await send(number)).raise_for_status()
        return time.perf_counter() - due

    return list(await asyncio.gather(*(one(i) for i in range(count))))


async def in_turn(
    send: Callable[[int], Awaitable[httpx.Response]], count: int, at_once: int = 1
) -> tuple[list[float], float]:
    """Latencies of `count` requests, so many at a time, and the rate that came of it."""
    numbers = iter(range(count))
    taken: list[float] = []

    async def one_after_the_other() -> None:
        for number in numbers:
            began = time.perf_counter()
            (await send(number)).raise_for_status()
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return taken, count / (time.perf_counter() - began)


async def lists(url: str, tokens: dict[str, str]) -> list[Row]:
    """Pages of a project with few jobs and of one with many: the first, one from the middle, and a rare state."""
    rows: list[Row] = []
    for project, token in tokens.items():
        async with client(url, token) as api:
            page = (await api.get("/v1/jobs", params={"limit": 50})).raise_for_status().json()
            for name, parameters in (
                ("first page", {}),
                ("page after", {"after": page["last_id"]}),
                ("failed jobs", {"state": "failed"}),
            ):
                taken, _ = await in_turn(lambda _, p=parameters: api.get("/v1/jobs", params=p), LIST_REQUESTS)  # type: ignore[misc]
                rows.append(latencies(f"{project} jobs stored: {name}", taken))
    return rows


async def load(url: str, token: str, request: dict[str, Any], arguments: argparse.Namespace) -> list[Row]:
    """Submissions, then the status of jobs while all of their event streams are open and a worker prunes."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(client(url, token))
        busy = (await api.post("/v1/jobs", json=request)).raise_for_status().json()["id"]
        while (await api.get(f"/v1/jobs/{busy}")).json()["progress"] == 0:
            await asyncio.sleep(0.1)
        ids: list[str] = []

        async def submit(_: int) -> httpx.Response:
            answer = await api.post("/v1/jobs", json=request)
            ids.append(answer.json()["id"])
            return answer

        taken, rate = await in_turn(submit, arguments.queued, at_once=8)
        rows = [latencies("submit, 8 at a time", taken, **{"requests/s": rate})]
        streams = [
            await stack.enter_async_context(
                api.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
            )
            for job in ids[: arguments.streams]
        ]
        lines = [stream.raise_for_status().aiter_lines() for stream in streams]
        for stream_lines in lines:
            await anext(stream_lines)  # its first event: what follows is measured with all of them open
        count = int(arguments.rate * arguments.seconds)
        taken = await at_rate(lambda i: api.get(f"/v1/jobs/{ids[i % len(ids)]}"), arguments.rate, count)
        name = f"status, {len(ids)} jobs queued, {len(streams)} event streams open"
        rows.append(latencies(name, taken, **{"requests/s": arguments.rate}))
        state = (await api.get(f"/v1/jobs/{busy}")).json()["state"]
        if state != "running":
            raise RuntimeError(f"The worker did not prune all the while: its job is {state}.")
        await api.post(f"/v1/jobs/{busy}/cancel")
    return rows


def resident(server: psutil.Process) -> float:
    """Resident MiB of a process and those that it has started."""
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True))) / 2**20


async def memory(url: str, token: str, server: psutil.Process, requests: int) -> tuple[Row, list[float]]:
    """Resident MiB of the API before, between and after parts of many requests of all kinds."""
    async with client(url, token) as api:
        page = (await api.get("/v1/jobs")).raise_for_status().json()
        job = page["data"][0]["id"]
        paths = ["/v1/jobs", f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", "/v1/jobs?state=failed", "/v1/models"]

        async def send(number: int) -> httpx.Response:
            return await api.get(paths[number % len(paths)])

        sizes = [resident(server)]
        taken: list[float] = []
        began = time.perf_counter()
        for _ in range(MEMORY_PARTS):
            part, _ = await in_turn(send, requests // MEMORY_PARTS, at_once=CONNECTIONS)
            taken += part
            sizes.append(resident(server))
        rate = len(taken) / (time.perf_counter() - began)
    return latencies(f"reads of five kinds, {CONNECTIONS} at a time", taken, **{"requests/s": rate}), sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--queued", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=36_000)
    parser.add_argument("--processes", type=int, default=1, help="of the API; the memory is that of all of them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database() as database_url:
        scratch = Path(folder)
        save_model(
            scratch / "models" / "busy", blocks=60, hidden=512, inner=1408, head=64, length=256, vocabulary=4096
        )
        environment = installation(scratch, database_url) | {"EGGS_API_PROCESSES": str(arguments.processes)}
        request = {
            "model": "busy",
            "calibration": {"samples": 64, "sequence_length": 256},
            "evaluation": None,
            "effort": "best",
        }
        server_log, worker_log = scratch / "server.log", scratch / "worker.log"
        with process([*EGGS, "serve", "--no-worker"], environment, server_log) as server:
            url = address(server_log, server)
            engine = make_engine(database_url)
            sessions = make_sessions(engine)
            tokens = {}
            for count in (FEW_JOBS, arguments.stored):
                key_id, tokens[f"{count:,}"] = key(sessions, f"stored-{count}")
                store(sessions, f"stored-{count}", key_id, {"model": "busy"}, count)
            rows = asyncio.run(lists(url, tokens))
            many = tokens[f"{arguments.stored:,}"]
            row, sizes = asyncio.run(memory(url, many, psutil.Process(server.pid), arguments.requests))
            rows.append(row)
            with process([sys.executable, "-m", "worker"], environment, worker_log):
                rows += asyncio.run(load(url, key(sessions, "load")[1], request, arguments))
            engine.dispose()
    keep(
        "service",
        f"python -m benchmarks.service --rate {arguments.rate:g} --seconds {arguments.seconds:g} "
        f"--queued {arguments.queued} --streams {arguments.streams} --stored {arguments.stored} "
        f"--requests {arguments.requests} --processes {arguments.processes}",
        rows,
        "Resident memory of the API over the reads of five kinds, in MiB: "
        + ", ".join(f"{s:.1f}" for s in sizes)
        + ".",
    )


if __name__ == "__main__":
    main()
