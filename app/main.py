"""The web application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from app import health, metrics, openapi, problem_handlers, tracing
from app.artifacts import endpoints as artifacts
from app.artifacts.store import open_store
from app.audit import endpoints as audit
from app.beat import Beat
from app.body_limit import MAX_BODY_BYTES, BodyLimit
from app.catalog import endpoints as catalog
from app.dashboard import endpoints as dashboard
from app.db import CONNECTIONS, make_engine, make_sessions
from app.dependencies import known_parameters
from app.estimates import endpoints as estimates
from app.files import endpoints as files
from app.jobs import endpoints as jobs
from app.jobs.watch import Watch
from app.keys import endpoints as keys
from app.keys.middleware import KeyMiddleware
from app.masks import endpoints as masks
from app.queue import Doorbell, make_celery
from app.request_id import RequestId
from app.secrets import Secrets
from app.security_headers import SecurityHeaders
from app.sessions import endpoints as browser_sessions
from app.settings import Settings
from app.shares import endpoints as shares
from app.sweeps import endpoints as sweeps
from app.webhooks import endpoints as webhooks
from app.workers import endpoints as workers

DESCRIPTION = """
Pruning as a service for large language models: submit a model, an N:M pattern and a text to measure on; get a
pruned model and a report that says honestly what was lost.

Every path under `/v1` needs an API key, or the cookie of a session that was made with one (`POST /v1/session`);
a cookie that is to change something needs the header `X-Eggs-Session` besides.

Errors are `application/problem+json` (RFC 9457).
Every answer names its request in `X-Request-ID`, as the service's log does. Send a name of your own (up to 64
letters, digits and `._-`) to have it taken.
"""


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. The schema is expected to be current; `app.migrate` sees to that."""
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    readers = make_sessions(engine, read_only=True)
    celery = make_celery(settings)
    store = open_store(settings)
    watch = Watch(readers)
    secrets = Secrets(settings)
    beat = Beat(settings, readers=readers, sessions=sessions, celery=celery, store=store, secrets=secrets)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Watch]]:
        if settings.beat:
            beat.start()
        yield {"watch": watch}  # for `app.protocol`
        if settings.beat:
            beat.stop()
        engine.dispose()
        tracing.flush()

    # FastAPI itself, except that /docs loads nothing from elsewhere.
    app = FastAPIOffline(
        title="eggs",
        version=version("eggs"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # FastAPI's own spans, one a request, where `app.tracing` sends any.
        telemetry={"operation_spans": False, "metrics": False, "logs": False, "exclude": health.is_probe},
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.readers = readers
    # The rest is for what lets go of its connection by itself: keys, event streams, metrics, and what sends.
    app.state.turns = asyncio.Semaphore(CONNECTIONS * 3 // 4)
    app.state.watch = watch
    app.state.doorbell = Doorbell(celery)
    app.state.store = store
    app.state.secrets = secrets
    app.state.resolvers = CapacityLimiter(4)
    app.state.store_readers = CapacityLimiter(8)
    app.state.upload_checkers = CapacityLimiter(8)
    app.state.estimators = CapacityLimiter(4)
    app.add_middleware(
        BodyLimit, most=MAX_BODY_BYTES, more={files.PATH: settings.max_upload_bytes + MAX_BODY_BYTES}
    )
    app.add_middleware(KeyMiddleware, readers=readers, sessions=sessions)
    app.add_middleware(RequestId)
    app.add_middleware(SecurityHeaders, docs="/docs")
    app.state.metrics = metrics.install(app, readers)
    problem_handlers.install(app)
    openapi.install(app)
    for domain in (
        jobs,
        sweeps,
        estimates,
        artifacts,
        masks,
        files,
        webhooks,
        catalog,
        keys,
        browser_sessions,
        shares,
        audit,
        workers,
    ):
        app.include_router(
            domain.router,
            dependencies=[Depends(known_parameters)],
            responses=openapi.problems(401, 403, 422, 500, 503),
        )
    app.webhooks.include_router(webhooks.told)
    app.include_router(health.router)
    app.include_router(dashboard.router)
    app.mount("/static", dashboard.files)
    return app
