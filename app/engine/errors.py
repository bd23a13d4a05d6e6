"""Top-level errors: each with `extensions.code`, and nothing unexpected told to a client.

GRAPHQL_PARSE_FAILED, GRAPHQL_VALIDATION_FAILED    the document
PERSISTED_QUERY_NOT_FOUND, DOCUMENT_NOT_ALLOWED    a hash that is not known; a text that this caller may not send
BAD_USER_INPUT                                     variables, arguments, the operation's name
the code of a RequestError                         missing permission, bad request, overload
UNAVAILABLE                                        the database is out of reach
TIMED_OUT                                          the operation took too long
INTERNAL                                           everything else: logged with its traceback under a reference
"""

import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from graphql import FieldNode, GraphQLError

from app.api.context import Context
from app.db import pools
from app.errors import RequestError, Unavailable

log = logging.getLogger(__name__)


DATABASE_UNAVAILABLE: Final = "The database is out of reach: send the same request again in a moment."


OPERATION_TIMED_OUT: Final = (
    "The operation took too long and was given up. A mutation may have been carried out: send the same request again."
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


def format_errors(errors: Sequence[GraphQLError], context: Context) -> list[dict[str, Any]]:
    """The errors of an execution as they are sent; unexpected ones are masked and logged here."""
    return [_sent(found, context) for found in errors]


def _sent(found: GraphQLError, context: Context) -> dict[str, Any]:
    cause = _cause(found)
    if isinstance(cause, RequestError):
        message, code = str(cause), cause.code
    elif pools.is_connection_failure(cause):
        log.warning("the database is out of reach: %s", cause)
        message, code = DATABASE_UNAVAILABLE, Unavailable.code
    elif isinstance(cause, GraphQLError) and _is_the_callers(found, cause):
        message, code = found.message, (cause.extensions or {}).get("code", ErrorCode.BAD_USER_INPUT)
    else:
        return _at(found, mask_fault(cause, context))
    return _at(found, format_error(message, code))


def mask_fault(fault: BaseException, context: Context) -> dict[str, Any]:
    """What a client is told of a fault: a reference, under which the traceback is in the log."""
    reference = context.request_id
    log.error("fault %s", reference, exc_info=fault)
    told = format_error(f"Something went wrong on our side. Quote reference {reference}.", ErrorCode.INTERNAL)
    told["extensions"]["reference"] = reference
    return told


def _cause(found: GraphQLError) -> Exception:
    """What was raised in the first place: graphql-core wraps it once for each place that it passes."""
    cause: Exception = found
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    return cause


def _is_the_callers(found: GraphQLError, cause: GraphQLError) -> bool:
    """Whether graphql-core blames the request.

    Before execution (no path) it always does. In a field it blames an argument, naming its place in the document. What
    it says of a value of ours is our fault: that names no place, or the field's.
    """
    if found.path is None:
        return True
    if not cause.nodes:
        return False
    return not isinstance(cause.nodes[0], FieldNode) or cause.message.startswith("Argument ")


def _at(found: GraphQLError, told: dict[str, Any]) -> dict[str, Any]:
    if found.locations:
        told["locations"] = [{"line": place.line, "column": place.column} for place in found.locations]
    if found.path is not None:
        told["path"] = found.path
    return told
