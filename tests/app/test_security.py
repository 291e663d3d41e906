"""What strangers and browsers may try on the service from outside."""

import json
import select
import socket
import time
from contextlib import suppress
from email.message import Message
from http.client import HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest
from fastapi.testclient import TestClient

from app import body_limit, protocol
from app.db import CONNECTIONS
from tests.app.conftest import RunningServer
from tests.conftest import wait_for

JSON = {"Content-Type": "application/json"}
MODEL = "smollm2-135m-instruct"
START = b"GET /v1/jobs HTTP/1.1\r\n"
NESTED = [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 20_000 + b"]" * 20_000]


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/v1/jobs", "/v1/nothing"])
def test_browsers_are_told_what_not_to_do(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers
    if path.startswith("/v1"):
        assert headers["cache-control"] == "no-store"


def test_errors_carry_the_headers_too(anonymous: TestClient) -> None:
    answer = anonymous.get("/v1/jobs")
    assert answer.status_code == 401
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_another_sites_form_can_do_nothing(anonymous: TestClient) -> None:
    """A browser sends cookies by itself, but no header that lets them change anything (test_sessions.py)."""
    body = {"model": "smollm2-135m-instruct"}
    cookies = {"Cookie": "authorization=Bearer x; session=1", "Origin": "https://elsewhere.example"}
    assert anonymous.post("/v1/jobs", json=body, headers=cookies).status_code == 401
    preflight = anonymous.options("/v1/jobs", headers=cookies | {"Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    "body",
    [
        *NESTED,
        b'{"model":"x","metadata":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"priority":' + b"9" * 5000 + b"}",
    ],
    ids=["open lists", "open objects", "lists", "nested metadata", "a long number"],
)
def test_json_made_to_exhaust_the_parser(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:eggs:problem:unreadable-body"
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("text", ["a\r\nX-Injected: 1", "a\nb", 'a"; filename="b', "\u202e", "a" * 128])
def test_text_of_users_comes_back_as_text_alone(client: TestClient, text: str) -> None:
    request = {"model": "smollm2-135m-instruct", "name": text, "metadata": {"note": text}}
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 201
    assert "x-injected" not in answer.headers
    assert answer.json()["name"] == text
    assert client.get(answer.headers["location"]).json()["metadata"] == {"note": text}


def test_a_client_that_sends_its_body_slowly_is_cut_off(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And holds up nobody meanwhile: neither with half a body, nor with half a header."""
    monkeypatch.setattr(body_limit, "BODY_SECONDS", 1.0)
    address = urlsplit(server.url)
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: eggs\r\nAuthorization: Bearer {server.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n"
    )
    slow = [socket.create_connection((address.hostname, address.port), timeout=60) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall((head if number % 2 else head + '\r\n{"model"').encode())
        with server.client() as others:
            for _ in range(20):
                others.get("/v1/jobs").raise_for_status()
        for connection in slow[::2]:
            answer = connection.makefile("rb").read()  # to the end of the connection
            status, _, rest = answer.partition(b"\r\n")
            assert status == b"HTTP/1.1 408 Request Timeout"
            assert json.loads(rest.partition(b"\r\n\r\n")[2])["type"] == "urn:eggs:problem:request-timeout"
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.filterwarnings("ignore:unclosed resource <TCPTransport")  # uvicorn leaves them to its process's end
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_client_that_reads_nothing_holds_up_nobody(server: RunningServer) -> None:
    """Neither other clients, however many there are of its kind, nor the end of the service."""
    text = b"A line.\n" * (1 << 20)
    clients = 2 * CONNECTIONS
    with server.client() as others:
        file = others.post("/v1/files", files={"file": ("a.txt", text)}).raise_for_status().json()
        slow = [Raw(server) for _ in range(clients)]
        for raw in slow:
            raw.send(f"GET {file['url']} HTTP/1.1\r\nAuthorization: Bearer {server.key}\r\n\r\n".encode())
        for raw in slow:
            assert raw.socket.recv(13) == b"HTTP/1.1 200 "
        for _ in range(20):
            others.get("/v1/jobs").raise_for_status()
        assert others.get(file["url"]).content == text
        assert len(server.uvicorn.server_state.tasks) >= clients, "they were answered to the end"

    server.uvicorn.config.timeout_graceful_shutdown = 1
    half = Raw(server)
    half.send(
        f"POST /v1/jobs HTTP/1.1\r\nAuthorization: Bearer {server.key}\r\nContent-Length: 9\r\n\r\n[".encode()
    )
    wait_for(lambda: len(server.uvicorn.server_state.tasks) > clients)
    server.stop()
    assert problem(half.answer()) == (503, "service-stopping")
    wait_for(lambda: not server.uvicorn.server_state.tasks)
    for raw in slow:
        with raw.socket:
            assert len(raw.socket.makefile("rb").read()) < len(text)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Raw:
    """A connection that sends what a client would not."""

    def __init__(self, server: RunningServer) -> None:
        address = urlsplit(server.url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=60)

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # the server may have had enough
            self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next one; the connection ends with it."""
        response = HTTPResponse(self.socket)
        response.begin()
        with self.socket:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())


def ask(
    server: RunningServer, path: bytes, headers: bytes = b"", *, method: bytes = b"GET", body: bytes = b""
) -> Answer:
    """The answer to a request that is sent as it is."""
    raw = Raw(server)
    raw.send(method + b" " + path + b" HTTP/1.1\r\nConnection: close\r\n")
    raw.send(b"Authorization: Bearer " + server.key.encode() + b"\r\n")
    if body:
        raw.send(b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
    raw.send(headers + b"\r\n" + body)
    return raw.answer()


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status, json.loads(answer.body)["type"].removeprefix("urn:eggs:problem:")


@pytest.mark.parametrize("sent", [b"", START, START + b"X: y"], ids=["nothing", "no header", "half a header"])
def test_a_client_that_sends_its_headers_slowly_is_cut_off(
    sent: bytes, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    raw = Raw(server)
    raw.send(sent)
    assert problem(raw.answer()) == (408, "request-timeout")


def test_the_next_request_of_a_connection_must_come_in_time_too(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    raw = Raw(server)
    raw.send(b"GET /healthz HTTP/1.1\r\nHost: eggs\r\n\r\n")
    first = HTTPResponse(raw.socket)
    first.begin()
    assert first.status == 200
    first.read()
    raw.send(START)
    assert problem(raw.answer()) == (408, "request-timeout")


def test_a_request_may_take_longer_than_its_headers(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    body = json.dumps({"model": MODEL}).encode()
    raw = Raw(server)
    raw.send(f"POST /v1/jobs HTTP/1.1\r\nHost: eggs\r\nAuthorization: Bearer {server.key}\r\n".encode())
    raw.send(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    assert select.select([raw.socket], [], [], 1.0)[0] == [], "an answer before the body"
    raw.send(body)
    assert raw.answer().status == 201


@pytest.mark.parametrize(
    "piece", [b"y" * 65536, b"X-1: y\r\n" * 8192], ids=["a line without end", "headers without end"]
)
def test_headers_without_end(piece: bytes, server: RunningServer) -> None:
    before = psutil.Process().memory_info().rss
    raw = Raw(server)
    raw.send(START + b"X: ")
    for _ in range(1000):  # 64 MiB, if they were taken
        raw.send(piece)
    assert psutil.Process().memory_info().rss - before < 16 << 20
    with suppress(ConnectionError):  # its end may overtake the answer
        assert problem(raw.answer()) == (431, "headers-too-large")
    with server.client() as others:
        others.get("/v1/jobs").raise_for_status()


def test_headers_just_too_large_are_answered(server: RunningServer) -> None:
    raw = Raw(server)
    raw.send(START)
    deadline = time.monotonic() + 20
    while not select.select([raw.socket], [], [], 0.01)[0]:  # each is read before the next is sent
        assert time.monotonic() < deadline
        raw.send(b"X: " + b"y" * 4096 + b"\r\n")
    assert problem(raw.answer()) == (431, "headers-too-large")


def test_many_and_long_headers_within_the_limit(server: RunningServer) -> None:
    many = b"".join(b"X-%d: y\r\n" % number for number in range(2000))
    assert ask(server, b"/v1/jobs", many).status == 200
    assert ask(server, b"/v1/jobs", b"X: " + b"y" * 40_000 + b"\r\n").status == 200


def test_an_upload_is_no_header(server: RunningServer) -> None:
    with server.client() as client:
        for _ in range(2):  # on one connection
            answer = client.post("/v1/files", files={"file": ("a.txt", b"A line.\n" * 100_000)})
            assert answer.status_code == 201


OUT = [
    b"%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"../../../../etc/passwd",
    b"..%2f..%2f..%2fetc/passwd",
    b"..%5c..%5c..%5cetc%5cpasswd",
    b"..\\..\\etc\\passwd",
    b"%252e%252e%252fetc%252fpasswd",
    b"%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    b"%2fetc%2fpasswd",
    b"//etc/passwd",
    b"file:%2f%2f%2fetc%2fpasswd",
    b"%00",
    b"SHA256SUMS%00",
    b"%00/etc/passwd",
    b"%ff%fe",
    b"%ed%a0%80",
    b"a%0d%0aX-Injected:%201",
    b"x" * 5_000,
    b"x" * 60_000,
    b"../" * 5_000,
]


@pytest.mark.parametrize("path", OUT, ids=lambda path: path[:24].decode())
def test_no_path_leads_out(path: bytes, server: RunningServer) -> None:
    with server.client() as client:
        job = client.post("/v1/jobs", json={"model": MODEL}).json()["id"].encode()
        file = client.post("/v1/files", files={"file": ("a.txt", b"text")}).json()["id"].encode()
    for base in (
        b"/v1/jobs/" + job + b"/artifacts/",
        b"/v1/jobs/",
        b"/v1/files/",
        b"/v1/files/" + file + b"/",
        b"/v1/files/" + file + b"/content/",
        b"/static-offline-docs/",
        b"/",
    ):
        answer = ask(server, base + path)
        assert answer.status == 404, (base, answer)
        assert "x-injected" not in answer.headers
        assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "revision", ["..", "../../x", "a/../../x", "/dev/zero", "a//x", "a/", "./x", "a\\..\\x", "a\n"]
)
def test_no_revision_leads_out(revision: str, client: TestClient) -> None:
    """The client of the Hub reads, and writes, a file of its name."""
    answer = client.post("/v1/jobs", json={"model": "org/model", "revision": revision})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/revision")


@pytest.mark.parametrize("revision", ["main", "v1.0+cu121", "refs/pr/1", "runs/é..b@2", "c" * 40])
def test_revisions_as_git_has_them(revision: str, client: TestClient) -> None:
    answer = client.post("/v1/jobs", json={"model": MODEL, "revision": revision})
    assert (answer.status_code, answer.json()["spec"]["revision"]) == (201, revision)


@pytest.mark.parametrize(
    "name",
    [
        'a".txt',
        "a;filename=b.txt",
        "a%0d%0aX-Injected: 1.txt",
        "\u202etxt.exe.txt",
        "\U0001f95a.txt",
        "a'b\"c.txt",
        "é.txt",
    ],
)
def test_the_name_of_a_file_comes_back_as_a_name_alone(name: str, server: RunningServer) -> None:
    with server.client() as client:
        stored = client.post("/v1/files", files={"file": (name, b"text")}).raise_for_status().json()
    answer = ask(server, f"/v1/files/{stored['id']}/content".encode())
    assert (answer.status, answer.body) == (200, b"text")
    assert "x-injected" not in answer.headers
    disposition = Message()
    disposition["Content-Disposition"] = answer.headers["content-disposition"]
    assert disposition.get_content_disposition() == "attachment"
    assert disposition.get_filename() == stored["name"]


@pytest.mark.parametrize(
    "name", [b"a\rb.txt", b"a\x1b[2Kb.txt", b"a\x7f.txt", b"a\xff.txt", b"a\0.txt", b"\xed\xa0\x80.txt"]
)
def test_a_file_whose_name_is_none(name: bytes, client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/files", content=head + b"text\r\n--x--\r\n", headers=headers)
    assert answer.status_code == 422
    assert client.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: evil.example\r\n",
        b"X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nForwarded: host=evil.example\r\n",
        b"X-Forwarded-Prefix: //evil.example\r\nX-Original-URL: /evil\r\n",
    ],
)
def test_no_header_says_where_an_answer_leads(headers: bytes, server: RunningServer) -> None:
    answer = ask(server, b"/v1/jobs", headers, method=b"POST", body=json.dumps({"model": MODEL}).encode())
    assert answer.status == 201
    assert answer.headers["location"] == f"/v1/jobs/{json.loads(answer.body)['id']}"
    assert b"evil" not in answer.body


@pytest.mark.parametrize(
    "header",
    [
        b"Idempotency-Key: a\r\n b\r\n",
        b"Idempotency-Key: a\0b\r\n",
        b"Idempotency-Key: a\x1b[31m\r\n",
        b"Idempotency-Key: a\nX-Injected: 1\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"X-\x1b: 1\r\n",
    ],
)
def test_headers_that_are_none(header: bytes, server: RunningServer) -> None:
    """Two servers that read them differently would take different requests from one connection."""
    answer = ask(server, b"/v1/jobs", header, method=b"POST")
    assert answer.status == 400
    assert "x-injected" not in answer.headers


@pytest.mark.parametrize(
    "key",
    ["é".encode(), b"\xff\xfe", "\U0001f95a".encode(), b"'; DROP TABLE jobs; --", b"%0d%0aX: 1", b"x" * 255],
)
def test_any_idempotency_key_is_a_key(key: bytes, client: TestClient) -> None:
    made = [client.post("/v1/jobs", json={"model": MODEL}, headers={b"Idempotency-Key": key}) for _ in "ab"]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert made[1].headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "NaN", "-Infinity", "1e300", "9" * 400, "-" + "9" * 4000, "0.1"]
)
@pytest.mark.parametrize(
    "fields", ['"priority":{}', '"calibration":{{"samples":{}}}', '"calibration":{{"seed":{}}}', '"seeds":{}']
)
def test_numbers_that_no_field_has(fields: str, number: str, client: TestClient) -> None:
    body = f'{{"model":"{MODEL}",{fields.format(number)}}}'
    answer = client.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:eggs:problem:invalid-request"
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("number", ["1e400", "9" * 5000, "-" + "9" * 4000, "NaN", "0x10", "%D9%A3", "%00"])
@pytest.mark.parametrize(
    "query", ["jobs?limit=", "files?limit=", "jobs/{}/events?after=", "jobs/{}/events?limit="]
)
def test_numbers_that_no_query_has(query: str, number: str, client: TestClient) -> None:
    job = client.post("/v1/jobs", json={"model": MODEL}).json()["id"]
    answer = client.get(f"/v1/{query.format(job)}{number}")
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:eggs:problem:invalid-request"


def test_a_number_beyond_every_column_is_kept_as_it_is(client: TestClient) -> None:
    """The worker says what is wrong with it: how many edges there can be depends on the model."""
    made = client.post("/v1/jobs", json={"model": MODEL, "min_degree": 10**40}).json()
    assert client.get(f"/v1/jobs/{made['id']}").json()["spec"]["min_degree"] == 10**40


def test_of_a_key_that_is_given_twice_the_last_counts_for_check_and_job_alike(client: TestClient) -> None:
    answer = client.post("/v1/jobs", content=f'{{"model":"{MODEL}","model":"/etc/passwd"}}', headers=JSON)
    assert answer.status_code == 403
    answer = client.post("/v1/jobs", content=f'{{"model":"/etc/passwd","model":"{MODEL}"}}', headers=JSON)
    assert (answer.status_code, answer.json()["spec"]["model"]) == (201, MODEL)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "\ud800"},
        {"name": "a\udfffb"},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"\udc00": "a"}},
        {"model": "\ud800"},
        {"calibration": {"source": "file:\ud800"}},
        {"ignore": ["\ud800"]},
        {"\ud800": 1},
    ],
    ids=ascii,
)
def test_half_a_character(fields: dict[str, Any], client: TestClient) -> None:
    answer = client.post("/v1/jobs", content=json.dumps({"model": MODEL} | fields), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:eggs:problem:invalid-request"
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_character_in_two_halves(client: TestClient) -> None:
    request = {"model": MODEL, "name": "\U0001f95a", "metadata": {"\U0001f95a": "\uffff"}}
    body = json.dumps(request)
    assert body.isascii()
    made = client.post("/v1/jobs", content=body, headers=JSON).json()
    stored = client.get(f"/v1/jobs/{made['id']}").json()
    assert (stored["name"], stored["metadata"]) == (request["name"], request["metadata"])
