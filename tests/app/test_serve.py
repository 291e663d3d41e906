"""`eggs serve` as a user runs it: one key, one worker, and nothing left behind however it ends."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse
from prometheus_client.parser import text_string_to_metric_families

from app.cli.exit_codes import ExitCode
from app.settings import Settings
from tests.conftest import free_port, wait_for

EGGS = [sys.executable, "-c", "from app.cli.main import main; main()"]
Start = Callable[..., "Service"]


class Service:
    """A running `eggs serve`, its standard output in a file."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self._output = data_dir.parent / f"output-{os.urandom(4).hex()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*EGGS, "serve", "--data-dir", str(data_dir), "--port", "0", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._answers)
        self.url = self._address()

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def key(self) -> str | None:
        return self._find(r"(eggs_\w+_\w+)")

    def worker(self) -> int | None:
        """The process id of its worker."""
        return next((pid for pid in children(self.process.pid) if "worker" in command_line(pid)), None)

    def _find(self, pattern: str) -> str | None:
        match = re.search(pattern, self.output)
        return match[1] if match else None

    def _address(self) -> str | None:
        return self._find(r"(?:The service is at |\"url\": \")(http[^\s\"]+)")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output
        url = self._address()
        # Where it has said that it listens, no request is refused.
        return url is not None and httpx.get(f"{url}/readyz", timeout=60).status_code == 200


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def refuses_connections(url: httpx.URL) -> bool:
    try:
        socket.create_connection((url.host, url.port), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def stop_in_the_middle_of_a_request(service: Service, key: str | None) -> None:
    """Fails unless a request that was begun before the signal is answered, and no connection taken after it."""
    url = httpx.URL(service.url)
    body = json.dumps({"model": "smollm2-135m-instruct"}).encode()
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: eggs\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")  # it waits for the body
        connection.sendall(body[: len(body) // 2])
        service.process.terminate()
        wait_for(lambda: refuses_connections(url))
        wait_for(lambda: "Waiting for connections to close" in service.output)
        assert service.process.poll() is None
        connection.sendall(body[len(body) // 2 :])
        assert connection.recv(1024).startswith(b"HTTP/1.1 201 ")
    assert service.process.wait(10) == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Service] = []

    def run(*arguments: str) -> Service:
        running.append(Service(tmp_path / "data", *arguments))
        return running[-1]

    yield run
    for service in running:
        worker = service.worker()
        service.process.kill()
        service.process.wait()
        if worker is not None and group(worker):
            os.killpg(worker, signal.SIGKILL)


def test_more_connections_than_the_soft_limit_has_files(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        service = start("--no-worker")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    url = httpx.URL(service.url)
    with ExitStack() as connections:
        for _ in range(600):
            connections.enter_context(socket.create_connection((url.host, url.port), timeout=60))
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200


def test_the_first_start_prints_a_key_once_and_no_later_one_does(start: Start, tmp_path: Path) -> None:
    first = start("--no-worker", "--json")
    key = first.key
    assert key is not None
    (said,) = (line for line in first.output.splitlines() if line.startswith("{"))
    assert json.loads(said) == {"url": first.url, "key": key}
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{first.url}/v1/jobs", headers=headers, timeout=60).status_code == 200
    assert first.output.count(key) == 1
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(60) == 0

    secret = key.rpartition("_")[2].encode()
    stored = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert stored == []

    second = start("--no-worker")
    assert second.key is None
    assert httpx.get(f"{second.url}/v1/jobs", headers=headers, timeout=60).status_code == 200
    stop_in_the_middle_of_a_request(second, key)
    assert "Traceback" not in first.output + second.output


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_worker_ends_with_the_service(start: Start, end: signal.Signals) -> None:
    service = start()
    worker = wait_for(service.worker)
    wait_for(lambda: " ready." in service.output)
    assert group(worker)
    service.process.send_signal(end)
    service.process.wait(60)
    wait_for(lambda: not group(worker))


def test_a_worker_that_dies_is_started_again(start: Start) -> None:
    service = start()
    worker = wait_for(service.worker)
    os.killpg(worker, signal.SIGKILL)
    assert wait_for(lambda: service.worker() not in (None, worker))
    service.process.terminate()
    assert service.process.wait(60) == 0


def of_server(service: Service) -> list[int]:
    """The processes that answer requests, where there are several."""
    return [pid for pid in children(service.process.pid) if "spawn_main" in command_line(pid)]


def requests_counted(port: int) -> float:
    families = text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text)
    samples = {
        sample.name: sample
        for family in families
        for sample in family.samples
        if "/v1/jobs" in sample.labels.values()
    }
    return samples["eggs_http_requests_total"].value


def test_several_processes_answer_as_one(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics_port = free_port()
    monkeypatch.setenv("EGGS_METRICS_PORT", str(metrics_port))
    service = start("--no-worker", "--processes", "2")
    headers = {"Authorization": f"Bearer {service.key}"}
    wait_for(lambda: service.output.count("Application startup complete") == 2)
    first, second = of_server(service)

    def asked_without(other: int) -> None:
        """Asks while this process stands still, and the other one answers.

        It may have been stopped in the middle of a transaction, which the answer waits for: until this process has
        stood still for so long that it is replaced.
        """
        os.kill(other, signal.SIGSTOP)
        try:
            assert httpx.get(f"{service.url}/v1/jobs", headers=headers, timeout=60).status_code == 200
        finally:
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGCONT)

    asked_without(second)
    asked_without(first)
    assert requests_counted(metrics_port) == 2

    os.kill(first, signal.SIGKILL)
    assert httpx.get(f"{service.url}/v1/jobs", headers=headers, timeout=60).status_code == 200
    wait_for(lambda: len(of_server(service)) == 2 and first not in of_server(service))
    assert requests_counted(metrics_port) == 3

    job = httpx.post(
        f"{service.url}/v1/jobs", headers=headers, json={"model": "smollm2-135m-instruct"}, timeout=60
    ).json()
    accept = headers | {"Accept": "text/event-stream"}
    with (
        httpx.Client(headers=accept, timeout=60) as client,
        connect_sse(client, "GET", f"{service.url}/v1/jobs/{job['id']}/events") as source,
    ):
        events = source.iter_sse()
        assert next(events).event == "job.queued"
        stop_in_the_middle_of_a_request(service, service.key)
        assert list(events) == []
    assert "Traceback" not in service.output


def test_several_processes_end_with_the_one_that_started_them(start: Start) -> None:
    service = start("--no-worker", "--processes", "2")
    found = wait_for(lambda: len(found := of_server(service)) == 2 and found)
    service.process.kill()
    service.process.wait()
    wait_for(lambda: not any(map(command_line, found)))


def test_a_port_that_is_taken(start: Start, tmp_path: Path) -> None:
    port = start("--no-worker").url.rpartition(":")[2]
    environment = os.environ | Settings(data_dir=tmp_path / "other").environment()
    elsewhere = ["--host", "nowhere.invalid", "--port", "0"]
    for arguments, said in (
        (["serve", "--port", port], f"Port {port} is taken. Stop what listens there, or take --port 0."),
        (["serve", *elsewhere], "nowhere.invalid"),
        (["serve-model", str(tmp_path), "--port", port], f"Port {port} is taken."),
    ):
        second = subprocess.run([*EGGS, *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert second.returncode == ExitCode.REFUSED
        assert said in second.stderr
        assert "Traceback" not in second.stderr
        assert "eggs_" not in second.stdout


def test_settings_survive_the_way_to_another_process(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        model_roots=[tmp_path / "a", tmp_path / "b"],
        allow_hub=False,
        lease_seconds=1.5,
        database_url="postgresql+psycopg://user:pa%20ss@host/db",
    )
    program = "from app.settings import Settings; print(Settings().model_dump_json())"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert Settings.model_validate_json(result.stdout) == settings
