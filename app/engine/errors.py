"""Top-level errors. Each has a code in `extensions`. Unexpected exceptions are masked.

GRAPHQL_PARSE_FAILED         the document cannot be parsed
GRAPHQL_VALIDATION_FAILED    the document is not valid
PERSISTED_QUERY_NOT_FOUND    no persisted document has the hash
DOCUMENT_NOT_ALLOWED         this caller may send only persisted documents
BAD_USER_INPUT               variables, arguments or the operation name are not valid
the code of a RequestError   a missing permission, a bad request or an overload
UNAVAILABLE                  the database cannot be used now
TIMED_OUT                    the operation, or a statement of the database, took too long
INTERNAL                     any other fault, which is logged with its traceback and a reference
"""

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from graphql import FieldNode, GraphQLError

from app.db import failures
from app.engine.coercion_messages import plain_message
from app.engine.context import RequestContext
from app.errors import RequestError, Unavailable

log = logging.getLogger(__name__)

DATABASE_UNAVAILABLE: Final = (
    "The database cannot be used now. A mutation may have been executed: send the same request again in a moment."
)
ACCOUNT_LOCKED: Final = (
    "Another transaction has locked the account. Nothing was changed: send the same request again in a moment."
)
OPERATION_TIMED_OUT: Final = (
    "The operation took too long and was stopped. A mutation may have been executed: send the same request again."
)


LoggedTypes = set[type[BaseException]]
"""The types of exceptions that were logged for one response. If many fields or items fail, each type is logged once."""


class ErrorCode(StrEnum):
    PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
    VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
    BAD_USER_INPUT = "BAD_USER_INPUT"
    BAD_REQUEST = "BAD_REQUEST"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    DOCUMENT_NOT_FOUND = "PERSISTED_QUERY_NOT_FOUND"
    DOCUMENT_NOT_ALLOWED = "DOCUMENT_NOT_ALLOWED"
    TIMED_OUT = "TIMED_OUT"
    INTERNAL = "INTERNAL"


def format_error(message: str, code: str) -> dict[str, Any]:
    """Return a top-level error as it is sent."""
    return {"message": message, "extensions": {"code": code}}


def format_errors(errors: Sequence[GraphQLError], context: RequestContext[Any]) -> list[dict[str, Any]]:
    """Return the errors of an execution as they are sent. Unexpected errors are logged here and masked."""
    logged: LoggedTypes = set()
    return [_format(error, context, logged) for error in errors]


def mask_fault(fault: BaseException, context: RequestContext[Any], logged: LoggedTypes | None = None) -> dict[str, Any]:
    """Log an unexpected exception. The returned error contains only the reference under which it is logged.

    If `logged` is given, a type that it contains is not logged again.
    """
    reference = context.request_id
    if _is_first(fault, logged):
        log.error("fault %s", reference, exc_info=fault)
    masked = format_error(f"Something went wrong on our side. Quote reference {reference}.", ErrorCode.INTERNAL)
    masked["extensions"]["reference"] = reference
    return masked


def describe_database_error(failure: BaseException, logged: LoggedTypes) -> str | None:
    """Return the message for a list item that failed because of the database, or None if it failed otherwise."""
    known = _database_error(failure, logged)
    return None if known is None else known[0]


def _is_first(fault: BaseException, logged: LoggedTypes | None) -> bool:
    """Add the type to `logged`, and return whether it is new there."""
    if logged is None:
        return True
    if type(fault) in logged:
        return False
    logged.add(type(fault))
    return True


def _database_error(failure: BaseException, logged: LoggedTypes) -> tuple[str, str] | None:
    """Return the message and the code of a database failure, and log it. Returns None for other exceptions."""
    answer = failures.answer_to(failure)
    if answer is None:
        return None
    if _is_first(failure, logged):
        log.warning("the database has failed: %s", str(failure) or type(failure).__name__)
    if isinstance(failure, failures.AccountsLocked):
        return ACCOUNT_LOCKED, Unavailable.code
    if answer is failures.Answer.TIMED_OUT:
        return OPERATION_TIMED_OUT, ErrorCode.TIMED_OUT
    return DATABASE_UNAVAILABLE, Unavailable.code


def _format(error: GraphQLError, context: RequestContext[Any], logged: LoggedTypes) -> dict[str, Any]:
    cause = _root_cause(error)
    if isinstance(cause, RequestError):
        message, code = str(cause), cause.code
    elif (known := _database_error(cause, logged)) is not None:
        message, code = known
    elif isinstance(cause, GraphQLError) and _is_caused_by_request(error, cause):
        message, code = plain_message(error.message), (cause.extensions or {}).get("code", ErrorCode.BAD_USER_INPUT)
    else:
        return _with_position(error, mask_fault(cause, context, logged))
    return _with_position(error, format_error(message, code))


def _root_cause(error: GraphQLError) -> Exception:
    """Return the exception that the resolver raised. graphql-core may wrap it several times."""
    cause: Exception = error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    return cause


def _is_caused_by_request(error: GraphQLError, cause: GraphQLError) -> bool:
    """Return whether an error of graphql-core is about the request, not about a value that a resolver returned.

    An error without a path was found before execution, so it is about the request. An error with a path is about the
    request if it is about an argument: then its node is not the field's node, or its message starts with "Argument ".
    """
    if error.path is None:
        return True
    if not cause.nodes:
        return False
    return not isinstance(cause.nodes[0], FieldNode) or cause.message.startswith("Argument ")


def _with_position(error: GraphQLError, formatted: dict[str, Any]) -> dict[str, Any]:
    if error.locations:
        formatted["locations"] = [{"line": found.line, "column": found.column} for found in error.locations]
    if error.path is not None:
        formatted["path"] = error.path
    return formatted
