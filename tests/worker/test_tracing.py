"""Traces that follow a job from its request into its worker, as a collector receives them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from tests.app.build import read_job
from tests.app.test_serve import Service
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker
from tests.worker.test_limits import LONG, in_a_block, model

__all__ = ["model"]

pytestmark = pytest.mark.parametrize(("database_url", "broker"), [("postgresql", "redis")], indirect=True)
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
SHORT = {"samples": 2, "sequence_length": 32}


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP, as an OpenTelemetry collector does; knows each service's spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: dict[str, list[Span]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def span(self, service: str, name: str) -> Span | None:
        """The only one of this name."""
        found = [span for span in self.spans.get(service, []) if span.name == name]
        assert len(found) < 2
        return found[0] if found else None


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
            spans = self.server.spans.setdefault(of["service.name"], [])
            spans.extend(span for scope in group.scope_spans for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector
        collector.shutdown()
        thread.join()


@pytest.fixture
def api(settings: Settings, broker: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """`eggs serve --no-worker` with the settings of this test."""
    settings.dispatch_interval_seconds = 0.5
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    service = Service(settings.data_dir, "--no-worker")
    yield service
    service.process.kill()
    service.process.wait()


def submit(api: Service, body: dict[str, Any]) -> str:
    headers = {"Authorization": f"Bearer {api.key}", "traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"}
    answer = httpx.post(f"{api.url}/v1/jobs", json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def attributes_of(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes}


def test_a_trace_follows_its_job_into_the_worker(
    collector: Collector,
    api: Service,
    broker: Celery,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    start_worker: StartWorker,
) -> None:
    evaluation = {"sources": ["pydocs"], **SHORT}
    request = {"model": str(make_model("llama", num_hidden_layers=3)), "method": "magnitude"}
    job_id = submit(api, request | {"calibration": SHORT, "evaluation": evaluation})
    assert httpx.get(f"{api.url}/readyz", timeout=60).status_code == 200
    with broker.connection_for_read() as connection:
        message = wait_for(lambda: connection.default_channel.basic_get(broker.conf.task_default_queue))
        arguments, options, _ = json.loads(message.body)
    assert (arguments, options) == ([job_id], {}), "the message carries a job's id and nothing else"
    assert TRACE not in str(message.headers | message.properties)

    worker = start_worker()
    wait_for(lambda: read_job(sessions, job_id).state.final, pause=0.2)
    assert read_job(sessions, job_id).state == "succeeded"
    job = wait_for(lambda: collector.span("eggs-worker", "job"))
    api.process.terminate()
    assert api.process.wait(60) == 0
    worker.terminate()
    worker.wait(60)

    submitted = collector.span("eggs-api", "POST /v1/jobs")
    assert submitted is not None
    assert (submitted.trace_id.hex(), submitted.parent_span_id.hex()) == (TRACE, CLIENT_SPAN)
    assert not [span for span in collector.spans["eggs-api"] if "readyz" in span.name]
    assert (job.trace_id.hex(), job.parent_span_id) == (TRACE, submitted.span_id)
    known = attributes_of(job)
    assert (known["eggs.job.id"], known["eggs.job.attempt"], known["eggs.job.outcome"]) == (job_id, 1, "succeeded")

    stages = [span for span in collector.spans["eggs-worker"] if span is not job]
    assert {(span.trace_id.hex(), span.parent_span_id) for span in stages} == {(TRACE, job.span_id)}
    stages.sort(key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == [
        *("open", "evaluate_dense", "prune", "evaluate_pruned", "pack", "publish")
    ]
    for before, after in pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert job.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= job.end_time_unix_nano
    blocks = {span.name: [attributes_of(event)["block"] for event in span.events] for span in stages}
    assert blocks["prune"] == [0, 1, 2]
    assert not blocks["publish"]


def test_a_job_that_is_cut_short_leaves_its_span(
    collector: Collector,
    api: Service,
    sessions: sessionmaker[Session],
    model: Path,
    start_worker: StartWorker,
) -> None:
    job_id = submit(api, LONG | {"model": str(model)})
    start_worker()
    wait_for(lambda: in_a_block(sessions, job_id))
    headers = {"Authorization": f"Bearer {api.key}"}
    assert httpx.post(f"{api.url}/v1/jobs/{job_id}/cancel", headers=headers, timeout=60).status_code == 200
    wait_for(lambda: read_job(sessions, job_id).state == "cancelled")
    job = wait_for(lambda: collector.span("eggs-worker", "job"))
    assert job.trace_id.hex() == TRACE
    assert attributes_of(job)["eggs.job.outcome"] == "ended in the middle of a block"
