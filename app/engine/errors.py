"""Top-level errors: each has a code in `extensions`, and an unexpected exception is masked.

GRAPHQL_PARSE_FAILED, GRAPHQL_VALIDATION_FAILED    the document
PERSISTED_QUERY_NOT_FOUND, DOCUMENT_NOT_ALLOWED    unknown hash; this caller may not send its own documents
BAD_USER_INPUT                                     variables, arguments, operation name
the code of a RequestError                         missing permission, bad request, overload
UNAVAILABLE                                        the database cannot be reached
TIMED_OUT                                          the operation took too long
INTERNAL                                           everything else: logged with its traceback and a reference
"""

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from graphql import FieldNode, GraphQLError

from app.db import failures
from app.engine.context import RequestContext
from app.errors import RequestError, Unavailable

log = logging.getLogger(__name__)

DATABASE_UNAVAILABLE: Final = "The database cannot be reached: send the same request again in a moment."
OPERATION_TIMED_OUT: Final = (
    "The operation took too long and was stopped. A mutation may have been executed: send the same request again."
)


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
    """A top-level error as it is sent."""
    return {"message": message, "extensions": {"code": code}}


def format_errors(errors: Sequence[GraphQLError], context: RequestContext[Any]) -> list[dict[str, Any]]:
    """The errors of an execution as they are sent. Unexpected ones are logged here and masked."""
    return [_format(error, context) for error in errors]


def mask_fault(fault: BaseException, context: RequestContext[Any]) -> dict[str, Any]:
    """Log an unexpected exception; the error to send holds only the reference under which it is logged."""
    reference = context.request_id
    log.error("fault %s", reference, exc_info=fault)
    masked = format_error(f"Something went wrong on our side. Quote reference {reference}.", ErrorCode.INTERNAL)
    masked["extensions"]["reference"] = reference
    return masked


def _format(error: GraphQLError, context: RequestContext[Any]) -> dict[str, Any]:
    cause = _root_cause(error)
    if isinstance(cause, RequestError):
        message, code = str(cause), cause.code
    elif failures.is_connection_failure(cause):
        log.warning("the database cannot be reached: %s", cause)
        message, code = DATABASE_UNAVAILABLE, Unavailable.code
    elif isinstance(cause, GraphQLError) and _is_caused_by_request(error, cause):
        message, code = error.message, (cause.extensions or {}).get("code", ErrorCode.BAD_USER_INPUT)
    else:
        return _with_position(error, mask_fault(cause, context))
    return _with_position(error, format_error(message, code))


def _root_cause(error: GraphQLError) -> Exception:
    """The exception that was raised first: graphql-core wraps it at each field it passes."""
    cause: Exception = error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    return cause


def _is_caused_by_request(error: GraphQLError, cause: GraphQLError) -> bool:
    """Whether an error of graphql-core is about the request, and not about a value that a resolver returned.

    Before execution (no path) it always is. In a field, errors about arguments name the argument's node; errors about a
    returned value name no node, or the field's.
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
