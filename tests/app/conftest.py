"""Fixtures of the application: a client in this process, and a server on a port of its own."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.main import create_app
from app.server import config
from app.settings import Settings
from tests.app.build import make_key
from tests.app.receiver import receiver, resolver
from tests.conftest import wait_for
from tests.tiny_models import make_model, tokenizer

__all__ = ["make_model", "receiver", "resolver", "tokenizer"]


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    app = create_app(settings)
    yield app
    # FastAPI's caches keep the last thousands of applications. Most of one are its routes, and the garbage
    # collector would come to look at millions of objects, for seconds.
    app.routes.clear()


@pytest.fixture
def anonymous(app: FastAPI) -> Iterator[TestClient]:
    """A client without a key."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(anonymous: TestClient, sessions: sessionmaker[Session]) -> TestClient:
    """A client with a key of the project `default`."""
    anonymous.headers["Authorization"] = f"Bearer {make_key(sessions)[1]}"
    return anonymous


@dataclass(frozen=True)
class RunningServer:
    url: str
    key: str
    uvicorn: uvicorn.Server

    def stop(self) -> None:
        """Has it stop, as a signal would."""
        self.uvicorn.should_exit = True

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=120)


@pytest.fixture
def server(app: FastAPI, sessions: sessionmaker[Session]) -> Iterator[RunningServer]:
    """The application behind uvicorn, on a free port."""
    running = uvicorn.Server(config(app, "127.0.0.1", 0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_for(lambda: running.started)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield RunningServer(f"http://127.0.0.1:{port}", make_key(sessions)[1], running)
    running.should_exit = True
    thread.join()
