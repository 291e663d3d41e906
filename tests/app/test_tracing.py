"""Traces where none are wanted, where nothing can send them, and where nobody takes them."""

import os
import socket
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from tests.app.build import read_job

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SETUP = "from app import logs, tracing; logs.setup('text'); tracing.setup('eggs-api'); "
SPAN = "from opentelemetry import trace; trace.get_tracer('t').start_span('s').end(); "


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=True
    )


def test_nothing_is_traced_unless_it_is_asked_for(client: TestClient, sessions: sessionmaker[Session]) -> None:
    headers = {"traceparent": TRACEPARENT}
    job_id = client.post("/v1/jobs", json={"model": "smollm2-135m-instruct"}, headers=headers).json()["id"]
    assert read_job(sessions, job_id).traceparent is None
    shown = "import sys; print('opentelemetry.sdk' in sys.modules)"
    assert run(SETUP + shown).stdout == "False\n"
    assert run(SETUP + shown, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1").stdout == "True\n"


def test_the_service_runs_where_nothing_is_installed_to_send_traces() -> None:
    missing = "import sys; sys.modules['opentelemetry.sdk'] = None; "
    ended = run(missing + SETUP + SPAN + "tracing.flush()", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert "pip install eggs[tracing]" in ended.stderr


def test_a_collector_that_does_not_answer_holds_nobody_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flush = "import time; t = time.monotonic(); tracing.flush(); print(time.monotonic() - t, flush=True); "
        ended = run(SETUP + SPAN + flush + "import os; os._exit(0)", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert 4 < float(ended.stdout) < 7


@pytest.mark.parametrize("given", [None, "", "00-zz", "x" * 55, TRACEPARENT + "-more"])
def test_what_is_no_traceparent_begins_a_trace_of_its_own(given: str | None) -> None:
    from opentelemetry import trace

    from app import tracing

    assert not trace.get_current_span(tracing.parent(given)).get_span_context().is_valid
