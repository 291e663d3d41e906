"""Runs the API, with a worker beside it: all that `eggs serve` does."""

import gc
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from app import logs, metrics, tracing
from app.cli.render import console
from app.db import make_engine, make_sessions
from app.keys.service import create_first
from app.main import create_app
from app.migrate import upgrade
from app.protocol import BoundedProtocol
from app.settings import Settings
from app.supervisor import WorkerSupervisor


class Server(uvicorn.Server):
    """uvicorn, except that it ends event streams when it stops: they last as long as their jobs otherwise."""

    def __init__(self, app: FastAPI, host: str, port: int, *, log_level: str = "info") -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=BoundedProtocol,
                log_config=None,
                log_level=log_level,
                timeout_graceful_shutdown=5,
            )
        )
        self._stopping = app.state.stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the server."""
        self._stopping.set()
        await super().shutdown(sockets)


def run(settings: Settings, *, with_worker: bool) -> None:
    """Serves until it is told to stop by a signal, then stops all that it has started."""
    logs.setup(settings.log_format)
    tracing.setup("eggs-api")
    # uvicorn sends itself a signal again once it has shut down. This makes it an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))

    for folder in (settings.data_dir, settings.artifacts_dir):
        folder.mkdir(parents=True, exist_ok=True)
    app = create_app(settings)
    server = Server(app, settings.host, settings.port)
    listener = (
        server.config.bind_socket()
    )  # ends the process where the port is taken, before there is a key to print
    if (key := prepare_database(settings)) is not None:
        console.print(f"API key, shown only this once: {key}", highlight=False, soft_wrap=True)
    host, port, *_ = listener.getsockname()
    console.print(f"The service is at http://{host}:{port}", highlight=False, soft_wrap=True)
    if settings.metrics_port is not None:
        metrics.serve(app.state.metrics, settings.host, settings.metrics_port)
    supervisor = WorkerSupervisor(settings) if with_worker else None
    # What is there by now stays: no later collection looks through it again, while requests wait.
    gc.collect()
    gc.freeze()
    try:
        if supervisor is not None:
            supervisor.start()
        server.run(sockets=[listener])
    finally:
        if supervisor is not None:
            supervisor.stop()
        tracing.flush()


def prepare_database(settings: Settings) -> str | None:
    """Brings the schema up to date; returns the first key if there was none."""
    engine = make_engine(settings.database_url)
    try:
        upgrade(engine)
        with make_sessions(engine).begin() as session:
            return create_first(session)
    finally:
        engine.dispose()
