"""The Hugging Face Hub, as far as a server on loopback can stand for it: the real client asks it."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eggs_core import hub
from eggs_core.model_folder import ModelFolder

COMMIT = "c" * 40
MODEL_FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "original/model.safetensors": b"the same for another program",
    "consolidated.safetensors": b"the same for yet another",
}
DATASET_FILES = {"data/train.parquet": b"train", "data/test.parquet": b"test", "README.md": b"about"}
REPOSITORIES = {
    "models/org/model": MODEL_FILES,
    "models/org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "datasets/org/texts": DATASET_FILES,
}
REFUSALS = {401: "Invalid credentials in Authorization header", 403: "Forbidden"}


class Hub(BaseHTTPRequestHandler):
    """Speaks as much of the Hub's protocol as a download needs."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        for status, message in REFUSALS.items():
            if f"/refused-{status}" in path:
                return self._answer(b"{}", status, **{"X-Error-Message": message})
        for repository, files in REPOSITORIES.items():
            if path.startswith(f"api/{repository}/tree/"):
                tree = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in files.items()]
                return self._answer(json.dumps(tree).encode())
            if path == f"api/{repository}" or path.startswith(f"api/{repository}/revision/"):
                siblings = [{"rfilename": name} for name in files]
                return self._answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode())
            base = repository.removeprefix("models/")
            for name, content in files.items():
                if path in (f"{base}/resolve/main/{name}", f"{base}/resolve/{COMMIT}/{name}"):
                    return self._answer(content, ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})
        return self._answer(b"{}", status=404, **{"X-Error-Code": "RepoNotFound"})

    def _answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(endpoint: str, expression: str, cache: Path) -> str:
    """What the expression gives, or the error's class and message; the client reads its endpoint at import."""
    program = (
        "import sys; from pathlib import Path; from eggs_core import hub; from eggs_core.errors import EggsError\n"
        "cache = Path(sys.argv[1])\n"
        f"try: print({expression})\n"
        "except EggsError as error: print(type(error).__name__, error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    command = [sys.executable, "-c", program, str(cache)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_model_comes_without_its_pickles(endpoint: str, tmp_path: Path) -> None:
    folder = Path(ask(endpoint, 'hub.model_folder("org/model", None, cache)', tmp_path))
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert all(file.is_symlink() for file in folder.iterdir())
    files = ModelFolder(folder, [tmp_path])
    files.check()
    assert files.companions()["config.json"].read_bytes() == b"{}"


def test_what_the_hub_does_not_have_or_give(endpoint: str, tmp_path: Path) -> None:
    assert ask(endpoint, 'hub.model_folder("org/pickled", None, cache)', tmp_path).startswith("UnsafeCheckpoint")
    assert ask(endpoint, 'hub.model_folder("org/none", None, cache)', tmp_path).startswith("ModelNotFound")
    assert ask(endpoint, 'hub.dataset_file("hub:org/none", "calibration", cache)', tmp_path).startswith(
        "TextNotFound"
    )


@pytest.mark.parametrize("status", REFUSALS)
def test_a_token_that_is_refused_will_be_so_again(status: int, endpoint: str, tmp_path: Path) -> None:
    for error, expression in (
        ("ModelNotFound", f'hub.model_folder("org/refused-{status}", None, cache)'),
        ("TextNotFound", f'hub.dataset_file("hub:org/refused-{status}", "calibration", cache)'),
        ("TextNotFound", f'hub.dataset_file("hub:org/refused-{status}/a.txt", "calibration", cache)'),
    ):
        answer = ask(endpoint, expression, tmp_path)
        assert answer.startswith(f"{error} The Hugging Face Hub answers {status} for ")
        assert "the token is wrong, or has no access" in answer


@pytest.mark.parametrize(("part", "content"), [("calibration", b"train"), ("evaluation", b"test")])
def test_a_data_set_gives_the_fitting_split(part: str, content: bytes, endpoint: str, tmp_path: Path) -> None:
    path = Path(ask(endpoint, f'hub.dataset_file("hub:org/texts", "{part}", cache)', tmp_path))
    assert path.read_bytes() == content


def test_a_named_file_of_a_data_set(endpoint: str, tmp_path: Path) -> None:
    path = Path(
        ask(endpoint, 'hub.dataset_file("hub:org/texts/data/test.parquet", "calibration", cache)', tmp_path)
    )
    assert path.read_bytes() == b"test"


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_no_hub_that_is_away(
    full: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(full, os.strerror(full))

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(OSError, match=os.strerror(full)):
        hub.model_folder("org/model", None, tmp_path)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    answer = ask("http://127.0.0.1:9", 'hub.model_folder("org/model", None, cache)', tmp_path)
    assert answer.startswith("HubUnavailable")
    assert "Try again later" in answer
