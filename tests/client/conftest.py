"""Both clients behind one face, a service for them, and ways to it that have faults."""

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.keys import service as keys_service
from app.keys.scopes import Scope
from app.settings import Settings
from eggs_client import AsyncEggs, Eggs, Retries
from tests.app.conftest import RunningServer, app, receiver, resolver, server
from tests.tiny_models import make_model, tokenizer

__all__ = ["app", "make_model", "receiver", "resolver", "server", "tokenizer"]

QUICK = Retries(seconds=60, stream_seconds=60, first_pause=0.01, longest_pause=0.05)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: over HTTP the kind of database makes no difference."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings under which webhooks may be sent to a test's own receiver."""
    settings.webhook_allow_private = True
    return settings


@pytest.fixture
def admin_key(sessions: sessionmaker[Session]) -> str:
    with sessions.begin() as session:
        return keys_service.create(session, name="admin", scopes=list(Scope))[1]


class Blocking:
    """Something of the async client as the sync one has it: each await is run to its end."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return self._plain(getattr(self._inner, name))

    def _plain(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._plain(self._runner.run(_awaited(value)))
        if isinstance(value, AsyncIterator):
            return self._iterated(value)
        if inspect.ismethod(value) and "eggs_client._async" in value.__module__:
            return lambda *args, **options: self._plain(value(*args, **options))
        return Blocking(value, self._runner) if "eggs_client._async" in type(value).__module__ else value

    def _iterated(self, values: AsyncIterator[Any]) -> Iterator[Any]:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self._plain(self._runner.run(_awaited(anext(values))))


async def _awaited(value: Any) -> Any:
    return await value


MakeClient = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, server: RunningServer) -> Iterator[MakeClient]:
    """Makes clients of either kind, which are used alike; they have a short patience unless told otherwise."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make(url: str = server.url, key: str = server.key, retries: Retries = QUICK, **options: Any) -> Any:
            if request.param == "sync":
                return stack.enter_context(Eggs(url, key, retries=retries, **options))
            client = AsyncEggs(url, key, retries=retries, **options)
            stack.callback(lambda: runner.run(client.aclose()))
            return Blocking(client, runner)

        yield make


@pytest.fixture
def eggs(make_client: MakeClient) -> Any:
    """A client of either kind, with a key for jobs."""
    return make_client()


@pytest.fixture
def admin(make_client: MakeClient, admin_key: str) -> Any:
    """A client of either kind, with a key for everything."""
    return make_client(key=admin_key)


class Cutter:
    """A relay in front of the server that ends its first connections after so many bytes each."""

    def __init__(self, target: str, cuts: list[int]) -> None:
        address = urlsplit(target)
        self._target = (str(address.hostname), address.port)
        self._cuts = cuts
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                most = self._cuts[self.connections] if self.connections < len(self._cuts) else 1 << 40
                self.connections += 1
                threading.Thread(target=self._relay, args=(client, most), daemon=True).start()

    def _relay(self, client: socket.socket, most: int) -> None:
        with client, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            while most > 0 and (data := server.recv(min(most, 65536))):
                client.sendall(data)
                most -= len(data)
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)


MakeCutter = Callable[[list[int]], Cutter]


@pytest.fixture
def cutter(server: RunningServer) -> Iterator[MakeCutter]:
    made: list[Cutter] = []

    def make(cuts: list[int]) -> Cutter:
        made.append(Cutter(server.url, cuts))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


Fault = Literal["lost", "200", "502", "503", "429"]


@dataclass
class Way:
    """A proxy to the service. Of the requests it sees, the first ones meet the faults in `faults`."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    retry_after: str = "0"
    content: bytes = b"busy"
    sent: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def way(server: RunningServer) -> Iterator[Way]:
    """A way to the service that is straight until the test says otherwise.

    `lost` passes the request on and loses the answer; a number is answered in the service's place.
    """
    target = urlsplit(server.url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.sent.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            fault = proxy.faults.pop(0) if proxy.faults else None
            if fault not in (None, "lost"):
                self._answer(int(fault), {"Retry-After": proxy.retry_after}, proxy.content)
                return
            connection = HTTPConnection(str(target.hostname), target.port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "lost":
                self.close_connection = True
                return
            self._answer(answer.status, dict(answer.getheaders()), content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    proxy_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy_server.daemon_threads = True
    proxy = Way(f"http://127.0.0.1:{proxy_server.server_port}")
    thread = threading.Thread(target=proxy_server.serve_forever)
    thread.start()
    yield proxy
    proxy_server.shutdown()
    thread.join()
    proxy_server.server_close()
