"""The code and message of GraphQL errors that a failure of the database causes."""

import logging

import asyncpg
import pytest
from graphql import GraphQLError

from app.db.failures import NoConnection
from app.engine.context import RequestContext
from app.engine.errors import DATABASE_UNAVAILABLE, OPERATION_TIMED_OUT, format_errors

RETRY = "A mutation may have been executed: send the same request again"


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (NoConnection("no database connection within 3 s"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.DiskFullError("could not extend file"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.OutOfMemoryError("out of memory"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.AdminShutdownError("terminating connection"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.DeadlockDetectedError("deadlock detected"), "UNAVAILABLE", DATABASE_UNAVAILABLE),
        (asyncpg.QueryCanceledError("canceling statement due to timeout"), "TIMED_OUT", OPERATION_TIMED_OUT),
        (TimeoutError(), "TIMED_OUT", OPERATION_TIMED_OUT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failure_of_the_database_can_be_retried_and_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, failure: Exception, code: str, message: str
) -> None:
    context: RequestContext[None] = RequestContext(None, None, transport="http", client_address=None)
    caplog.set_level(logging.WARNING)

    errors = format_errors([GraphQLError("masked", original_error=failure)] * 2, context)

    assert errors == [{"message": message, "extensions": {"code": code}}] * 2
    assert RETRY in message
    assert [(record.name, record.exc_info) for record in caplog.records] == [("app.engine.errors", None)]


def test_wrong_arguments_of_a_statement_are_a_fault_with_a_reference(caplog: pytest.LogCaptureFixture) -> None:
    context: RequestContext[None] = RequestContext(None, None, transport="http", client_address=None)
    misuse = asyncpg.InterfaceError("the server expects 0 arguments for this query, 1 was passed")

    [error] = format_errors([GraphQLError("masked", original_error=misuse)], context)

    assert error["extensions"] == {"code": "INTERNAL", "reference": context.request_id}
    assert caplog.records[0].exc_info is not None
