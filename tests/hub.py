"""A server that speaks the Hugging Face Hub's protocol as far as pushing and loading models need it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import yaml

WRITE_TOKEN, READ_TOKEN = "hf_may_write_to_acme", "hf_may_only_read"
COMMIT = "0" * 40
OWNERS = {WRITE_TOKEN: "acme"}


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]]
    """The files of each branch."""
    commits: list[str] = field(default_factory=list)


@dataclass
class HubServer:
    """What the Hub has. `fault` gives the status that a request is answered with, if it is not to succeed."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[str, str], int | None] = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def uploads(self) -> int:
        """How many large files were sent so far."""
        return sum(method == "PUT" for method, _ in self.requests)

    def downloads(self) -> list[str]:
        """The names of the files that were fetched so far."""
        return [
            path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """The server, on a free port."""
    state = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_HEAD(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def do_PUT(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self._body()
            state.requests.append((self.command, self.path))
            if (status := state.fault(self.command, self.path)) is not None:
                return self._answer({"error": "at fault"}, status)
            path = self.path.partition("?")[0]
            if match := re.fullmatch("/lfs/(.+)", path):  # signed addresses, which need no token
                assert self.headers.get("Authorization") is None
                assert hashlib.sha256(body).hexdigest() == match[1]
                state.objects[match[1]] = body
                return self._answer({})
            if match := re.fullmatch(
                r"/(?:api/models/)?([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path
            ):
                repository = state.repositories.get(match[1])
                if repository is not None and not repository.private:
                    return self._read(repository, *match.groups()[1:])
            if path == "/api/validate-yaml":
                return self._validate(json.loads(body)["content"])
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in (WRITE_TOKEN, READ_TOKEN):
                return self._answer({"error": "Invalid credentials"}, 401)
            if path == "/api/repos/create":
                return self._create(json.loads(body), token)
            if match := re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?/(.+)", path):
                name, rest = match.groups()
                if name not in state.repositories:
                    return self._answer({}, 404, **{"X-Error-Code": "RepoNotFound"})
                if self.command == "POST" and OWNERS.get(token) != name.partition("/")[0]:
                    return self._answer({"error": "You don't have the rights to push here"}, 403)
                return self._repository(name, state.repositories[name], rest, body)
            if match := re.fullmatch("/api/models/([^/]+/[^/]+)", path):
                known = match[1] in state.repositories
                return self._answer({"id": match[1]}, 200 if known else 404)
            return self._answer({}, 404)

        def _validate(self, card: str) -> None:
            base_model = yaml.safe_load(card.split("---\n")[1]).get("base_model")
            if base_model is None or re.fullmatch(r"[\w.-]+/[\w.-]+", base_model):
                return self._answer({"errors": [], "warnings": []})
            told = (
                f'"base_model" with value "{base_model}" is not valid. Use a model id from https://hf.co/models.'
            )
            return self._answer({"errors": [{"message": told}], "warnings": []}, 400)

        def _create(self, asked: dict[str, str], token: str) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{state.url}/{name}"}
            if OWNERS.get(token) != asked["organization"]:
                return self._answer({"error": "You don't have the rights to create a model there"}, 403)
            if name in state.repositories:
                return self._answer(url | {"error": "You already created this model repo"}, 409)
            state.repositories[name] = Repository(asked.get("visibility") == "private", {"main": {}})
            return self._answer(url)

        def _repository(self, name: str, repository: Repository, rest: str, body: bytes) -> None:
            action, _, revision = unquote(rest).partition("/")
            if action == "branch":
                known = revision in repository.branches
                repository.branches.setdefault(revision, {})
                return self._answer({}, 409 if known else 200)
            if action == "preupload":
                files = [
                    {
                        "path": asked["path"],
                        "uploadMode": "lfs" if asked["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for asked in json.loads(body)["files"]
                ]
                return self._answer({"files": files})
            if rest == "info/lfs/objects/batch":
                return self._answer({"objects": [self._lfs(asked) for asked in json.loads(body)["objects"]]})
            if action == "commit":
                files_of_branch = repository.branches[revision]
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        assert value["encoding"] == "base64"
                        files_of_branch[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files_of_branch[value["path"]] = state.objects[value["oid"]]
                oid = hashlib.sha1(body).hexdigest()
                repository.commits.append(oid)
                return self._answer({"commitOid": oid, "commitUrl": f"{state.url}/{name}/commit/{oid}"})
            return self._answer({"id": name, "sha": COMMIT, "siblings": []})

        def _read(self, repository: Repository, what: str, revision: str, name: str) -> None:
            files = repository.branches["main" if revision == COMMIT else revision]
            oids = {file: hashlib.sha1(content).hexdigest() for file, content in files.items()}
            if what == "resolve":
                return self._send(files[name], ETag=f'"{oids[name]}"', **{"X-Repo-Commit": COMMIT})
            if what == "tree":
                entries = [
                    {"type": "file", "path": file, "size": len(content), "oid": oids[file]}
                    for file, content in files.items()
                ]
                return self._answer(entries)
            return self._answer({"id": "", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})

        def _lfs(self, asked: dict[str, object]) -> dict[str, object]:
            actions = {"actions": {"upload": {"href": f"{state.url}/lfs/{asked['oid']}"}}}
            return {"oid": asked["oid"], "size": asked["size"]} | (
                {} if asked["oid"] in state.objects else actions
            )

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, content: object, status: int = 200, **headers: str) -> None:
            self._send(json.dumps(content).encode(), status, **{"Content-Type": "application/json"}, **headers)

        def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that the client in this process asks instead of the real one."""
    with running_hub() as state:
        # Read from the environment when the client is imported, which it may be already. Large files go by LFS.
        template = f"{state.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield state
