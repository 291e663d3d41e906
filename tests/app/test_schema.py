"""The OpenAPI document holds: nothing is answered with an error of ours, or with what it does not say."""

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.generation.stateful.state_machine import StepInput, StepOutput
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from app.keys import service
from app.keys.scopes import Scope
from tests.app.build import make_job
from tests.conftest import empty

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

# A request that is as the document says may still be refused: for a model that is not there, say.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Not a bound on the service: the machine may be busy with other tests for longer than the ten seconds after which
# schemathesis ends a request, which the service takes for its own end and answers with 503.
PATIENCE_SECONDS = 120
BOUNDED = settings(max_examples=15, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


def headers_of_new_key(sessions: sessionmaker[Session]) -> dict[str, str]:
    """Those of a key that may do everything."""
    with sessions.begin() as session:
        _, token = service.create(session, name="test", scopes=list(Scope))
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def document(app: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation_alone(mode: GenerationMode, document: Any, sessions: sessionmaker[Session]) -> None:
    """With data that the document allows, and with data that it does not."""
    headers = headers_of_new_key(sessions)
    make_job(sessions)
    operations = [result.ok() for result in document.get_all_operations()]
    checked = 0
    for operation in operations:

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=PATIENCE_SECONDS)

        with suppress(Unsatisfiable):  # by data that is wrong where none is asked for
            check()
            checked += 1
    assert checked >= 15


def test_operations_one_after_the_other(document: Any, engine: Engine, sessions: sessionmaker[Session]) -> None:
    found: set[str] = set()  # the operations whose subject an answer before had named

    class Machine(document.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            empty(engine)  # a scenario that is played again must go as it went
            self.headers = headers_of_new_key(sessions)  # one scenario may revoke its key

        def step(self, input: StepInput) -> StepOutput:
            output: StepOutput = super().step(input)
            if input.is_applied and output.response.status_code not in (401, 404):
                found.add(input.case.operation.label)
            return output

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": self.headers, "timeout": PATIENCE_SECONDS}

        def validate_response(self, response: Any, case: Any, **options: Any) -> None:
            case.validate_response(response, checks=CHECKS)

    Machine.run(settings=settings(BOUNDED, max_examples=60, stateful_step_count=10))
    assert found
