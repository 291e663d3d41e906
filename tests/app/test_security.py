"""What strangers and browsers may try on the service from outside."""

import json
import socket
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from app import body_limit
from tests.app.conftest import RunningServer

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
    slow = [socket.create_connection((address.hostname, address.port), timeout=20) for _ in range(100)]
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
