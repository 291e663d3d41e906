"""One attempt: bounded whatever the other side does, to the address that was checked and to no other."""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.webhooks import sender
from app.webhooks.sender import Sender
from tests.app.receiver import Received, Receiver, Resolver, never, receiving

Answer = Callable[[BaseHTTPRequestHandler, Received], None]


def by_and_by(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.wfile.write(b"HTTP/1.1 204 No Content\r\nX-Long: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def nothing_but_headers(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.wfile.write(b"HTTP/1.1 204 No Content\r\n")
    while True:
        handler.wfile.write(b"X-Header: " + b"x" * 1000 + b"\r\n")


def continued(handler: BaseHTTPRequestHandler, _: Received) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def no_http(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6 secret banner\r\n")
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.close_connection = True


def endless_body(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b"x" * 10_000)


def slow_body(handler: BaseHTTPRequestHandler, _: Received) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


TOO_LATE = "There was no answer within 1 seconds."
NOT_HTTP = "The connection ended without an answer in HTTP."


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (never, None, TOO_LATE),
        (by_and_by, None, TOO_LATE),
        (continued, None, TOO_LATE),
        (nothing_but_headers, None, NOT_HTTP),
        (no_http, None, NOT_HTTP),
        (cut, None, NOT_HTTP),
        (endless_body, 200, None),
        (slow_body, 200, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_servers_that_answer_badly(
    answer: Answer,
    status: int | None,
    error: str | None,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "SECONDS", 1.0)
    receiver.answer = answer
    started = time.monotonic()
    outcome = Sender(allow_private=True).send(receiver.url, {}, b"{}")
    assert (outcome.status, outcome.error) == (status, error)
    assert time.monotonic() - started < (0.9 if answer is endless_body else 3)


def test_the_address_that_was_checked_is_the_one_that_is_called(receiver: Receiver, resolver: Resolver) -> None:
    resolver.names["hooks.example"] = ["127.0.0.1", "127.0.0.2"]
    port = receiver.url.split(":")[2].split("/")[0]
    outcome = Sender(allow_private=True).send(f"http://hooks.example:{port}/x", {}, b"{}")
    assert (outcome.status, resolver.asked["hooks.example"]) == (204, 1)
    assert receiver.received[0].headers["host"] == f"hooks.example:{port}"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, for a name; and the same with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / f"{name}.pem", folder / f"{name}.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return public, private


def test_certificates_are_checked_for_the_name(
    tmp_path: Path, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.names |= {"hooks.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    public, private = certificate(tmp_path, "hooks.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    with receiving(context) as receiver:
        port = receiver.url.split(":")[2]
        strange = Sender(allow_private=True).send(f"https://hooks.example:{port}", {}, b"{}")
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
        right = Sender(allow_private=True).send(f"https://hooks.example:{port}", {}, b"{}")
        wrong = Sender(allow_private=True).send(f"https://other.example:{port}", {}, b"{}")
    assert (right.status, right.error) == (204, None)
    assert "self-signed certificate" in str(strange.error)
    assert "Hostname mismatch" in str(wrong.error)
    assert asked == ["hooks.example", "hooks.example", "other.example"]
    assert len(receiver.received) == 1


def test_proxies_of_the_environment_are_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert Sender(allow_private=True).send(receiver.url, {}, b"{}").status == 204
        assert proxy.received == []
