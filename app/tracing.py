"""Traces by OpenTelemetry, sent over OTLP/HTTP to where `OTEL_EXPORTER_OTLP_ENDPOINT` says; none without it.

Spans are made through OpenTelemetry's API, which does nothing until `setup` gives it the SDK.
"""

import logging
import os
import threading

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# How long a process waits for the last spans to be sent, where the collector does not answer.
_FLUSH_SECONDS = 5.0
_TRACEPARENT = "traceparent"

_propagator = TraceContextTextMapPropagator()
logger = logging.getLogger(__name__)


def setup(service: str) -> None:
    """Sends this process's spans, in the name of this service where `OTEL_SERVICE_NAME` says no other."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("No traces are sent: that needs `pip install eggs[tracing]`")
        return
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Sends the spans that have ended, within a few seconds or not at all."""
    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send is not None:
        sender = threading.Thread(target=send, name="last spans", daemon=True)
        sender.start()
        sender.join(_FLUSH_SECONDS)


def traceparent() -> str | None:
    """Where this is in its trace, as W3C Trace Context writes it; None where nothing is traced."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(_TRACEPARENT)


def parent(traceparent: str | None) -> Context:
    """A context whose spans belong below this one."""
    return _propagator.extract({} if traceparent is None else {_TRACEPARENT: traceparent}, Context())
