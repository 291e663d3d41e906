"""The OpenAPI document holds: nothing is answered with an error of ours, or with what it does not say."""

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.orm import Session, sessionmaker

from app.keys import service
from tests.app.build import make_job

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

# A request that is as the document says may still be refused: for a model that is not there, say.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BOUNDED = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture
def headers(sessions: sessionmaker[Session]) -> dict[str, str]:
    """Those of a key that may do everything, whose project has a job."""
    with sessions.begin() as session:
        _, token = service.create(session, name="test", scopes=list(service.Scope))
    make_job(sessions)
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def document(app: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_every_operation_alone(document: Any, headers: dict[str, str]) -> None:
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:

        @BOUNDED
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS)

        check()


def test_operations_one_after_the_other(document: Any, headers: dict[str, str]) -> None:
    class Machine(document.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers}

        def validate_response(self, response: Any, case: Any, **options: Any) -> None:
            case.validate_response(response, checks=CHECKS)

    Machine.run(settings=settings(BOUNDED, max_examples=5, stateful_step_count=6))
