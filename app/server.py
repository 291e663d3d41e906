"""Runs the API, in as many processes as the settings say, and a worker beside it: all that `eggs serve` does."""

import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import parent_process
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app import logs, metrics, tracing
from app.db import make_engine, make_sessions
from app.keys.service import create_first
from app.main import create_app
from app.migrate import exclusive, upgrade
from app.protocol import BoundedProtocol
from app.settings import Settings, get_settings
from app.supervisor import WorkerSupervisor
from eggs_core.listener import bound

_SERVICE = "eggs-api"

# A process that stands still for longer is killed, and its requests are lost. uvicorn's own 5 are soon over while
# the machine swaps, or has other work than this.
_STANDSTILL_SECONDS = 30

# Connections and files that are open. No more, though there may be a billion: some libraries count up to it.
_MOST_OPEN = 65_536


def config(app: FastAPI | str, host: str, port: int, **more: Any) -> uvicorn.Config:
    """How uvicorn serves an application, or what a function of this name makes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=host,
        port=port,
        http=BoundedProtocol,
        log_config=None,
        timeout_graceful_shutdown=5,
        **more,
    )


def run(settings: Settings, *, with_worker: bool, listening: Callable[[str, str | None], None]) -> None:
    """Serves until it is told to stop by a signal, then stops all that it has started.

    Calls `listening` with its address once requests can be sent there, and with the first key if it has made it.
    Raises `CannotListen`.
    """
    logs.setup(settings.log_format)
    tracing.setup(_SERVICE)
    # uvicorn sends itself a signal again once it has shut down. This makes it an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))

    # Every event stream holds a connection. The soft limit is mostly 1,024, for programs that use select().
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_OPEN)), hard))

    for folder in (settings.data_dir, settings.artifacts_dir):
        folder.mkdir(parents=True, exist_ok=True)
    # Before there is a key to print, which would be lost where the port is taken.
    listener = bound(settings.host, settings.port)
    key = prepare_database(settings)
    listener.listen()  # requests wait from now on
    host, port, *_ = listener.getsockname()
    listening(f"http://{host}:{port}", key)
    with ExitStack() as stack:
        if with_worker:
            supervisor = WorkerSupervisor(settings)
            stack.callback(supervisor.stop)
            supervisor.start()
        if settings.api_processes == 1:
            _serve(settings, listener)
        else:
            _serve_in_processes(settings, listener)


def application() -> FastAPI:
    """The application in one of several processes, which ends with the one that has started it."""
    settings = get_settings()
    logs.setup(settings.log_format)
    tracing.setup(_SERVICE)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    return _lasting(create_app(settings))


class _Processes(Multiprocess):
    """uvicorn's own, but that connections are refused as soon as it is told to stop."""

    def terminate_all(self) -> None:
        """Tells the processes to stop."""
        for listener in self.sockets:  # else it would take connections that nobody answers
            listener.close()
        super().terminate_all()


def prepare_database(settings: Settings) -> str | None:
    """Brings the schema up to date; returns the first key if there was none."""
    engine = make_engine(settings.database_url)
    try:
        upgrade(engine)
        with exclusive(engine), make_sessions(engine).begin() as session:
            return create_first(session)
    finally:
        engine.dispose()


def _serve(settings: Settings, listener: socket) -> None:
    app = _lasting(create_app(settings))
    if settings.metrics_port is not None:
        metrics.serve(app.state.metrics, settings.host, settings.metrics_port)
    uvicorn.Server(config(app, settings.host, settings.port)).run(sockets=[listener])


def _serve_in_processes(settings: Settings, listener: socket) -> None:
    with TemporaryDirectory(prefix="eggs-metrics-") as counts:
        os.environ |= settings.environment() | {"PROMETHEUS_MULTIPROC_DIR": counts}
        if settings.metrics_port is not None:
            readers = make_sessions(make_engine(settings.database_url), read_only=True)
            metrics.serve(metrics.of_processes(Path(counts), readers), settings.host, settings.metrics_port)
        name = f"{__name__}:{application.__name__}"
        served = config(
            name,
            settings.host,
            settings.port,
            workers=settings.api_processes,
            timeout_worker_healthcheck=_STANDSTILL_SECONDS,
        )
        processes = _Processes(served, [listener])
        processes.run()
    if any(process.exitcode == STARTUP_FAILURE for process in processes.processes):
        sys.exit(STARTUP_FAILURE)


def _lasting(app: FastAPI) -> FastAPI:
    # What is there by now stays: no later collection looks through it again, while requests wait.
    gc.collect()
    gc.freeze()
    return app


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
