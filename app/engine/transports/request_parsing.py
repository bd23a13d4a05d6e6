"""What arrives, before anything is executed: the size of a body, its JSON, and the operation in it."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from app.auth.caller import Caller, CallerKind
from app.engine.execution import GraphQLRequest

MAX_USER_BODY_BYTES: Final = 64 * 1024
MAX_SERVICE_BODY_BYTES: Final = 1024 * 1024
MAX_URL_FIELDS: Final = 20
MAX_VARIABLES: Final = 100
MAX_VALUES: Final = 50_000
"""Of all variables together, containers included: a batch of 1,000 charges has 50 for each."""
MAX_NESTING: Final = 16
"""Of the variables: settings, 8 deep, of an item of a list in an input are 11."""

_DOCUMENT_ID: Final = re.compile("(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyTooLarge(Exception):
    """More bytes than this caller may send."""


class MalformedRequest(Exception):
    """The bytes hold no GraphQL request; the text says why, to a person."""


class InvalidDocumentId(MalformedRequest):
    """The request is one of GraphQL's, but names its document in a way that is not served here."""


class ClientDisconnected(Exception):
    """The caller left before its request was complete."""


def max_body_bytes(caller: Caller | None) -> int:
    """Users and strangers send one operation; services send batches, operators rate cards."""
    return MAX_USER_BODY_BYTES if caller is None or caller.kind is CallerKind.USER else MAX_SERVICE_BODY_BYTES


async def read_body(receive: Receive, limit: int) -> bytes:
    """The body. Raises: TooLarge as soon as it passes `limit`, whatever Content-Length said; Gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise BodyTooLarge
        body = body + chunk if body else chunk
        if not message.get("more_body", False):
            return body


def parse_body(body: bytes) -> GraphQLRequest:
    """The operation in a body. Raises: Malformed."""
    try:
        # It refuses invalid UTF-8, NaN, numbers beyond a double and nesting beyond 1,024, all as a ValueError.
        parameters = orjson.loads(body)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON in UTF-8: {error}.") from None
    if isinstance(parameters, list):
        raise MalformedRequest("One operation per request: batches are not served; for charges there is chargeBatch.")
    return parse_request(parameters)


def parse_request(parameters: object) -> GraphQLRequest:
    """The operation that these parameters name; what else they hold is ignored. Raises: Malformed; Misnamed."""
    if not isinstance(parameters, dict):
        raise MalformedRequest('Send a JSON object: {"query": "…", "variables": {…}, "operationName": "…"}.')
    query, variables, name = parameters.get("query"), parameters.get("variables"), parameters.get("operationName")
    extensions = parameters.get("extensions")
    if not (variables is None or isinstance(variables, dict)):
        raise MalformedRequest("variables must be an object or null.")
    if variables:
        _check_size(variables)
    if not (name is None or isinstance(name, str)):
        raise MalformedRequest("operationName must be a string or null.")
    if not (extensions is None or isinstance(extensions, dict)):
        raise MalformedRequest("extensions must be an object or null.")
    hash = _hash(parameters.get("documentId"), (extensions or {}).get("persistedQuery"))
    if hash is not None and query is None:
        query = ""
    if not isinstance(query, str):
        raise MalformedRequest("query must be a string: the GraphQL document.")
    return GraphQLRequest(query, variables, name, hash)


def _hash(document_id: object, persisted_query: object) -> str | None:
    """The SHA-256, in lower-case hex, by which the request names its document: by `documentId`, by Apollo's extension,
    or by both alike. None: by neither. Raises: Misnamed."""
    if document_id is None:
        return None if persisted_query is None else _hash_of_apollo(persisted_query)
    found = _DOCUMENT_ID.fullmatch(document_id) if isinstance(document_id, str) else None
    if found is None:
        raise InvalidDocumentId(
            'documentId must be "sha256:<64 hex digits>": the SHA-256 of the document\'s exact text.'
        )
    hash = found[1].lower()
    if persisted_query is not None and _hash_of_apollo(persisted_query) != hash:
        raise InvalidDocumentId(
            "documentId and extensions.persistedQuery name two documents: send one of them, or both alike."
        )
    return hash


def _hash_of_apollo(persisted_query: object) -> str:
    match persisted_query:
        case {"version": int(version)} if version != 1:
            raise InvalidDocumentId(
                f"extensions.persistedQuery of version {version!s:.20} is not served: send version 1."
            )
        case {"version": 1, "sha256Hash": str(hash)} if found := _DOCUMENT_ID.fullmatch(hash):
            return found[1].lower()
    raise InvalidDocumentId('extensions.persistedQuery must be {"version": 1, "sha256Hash": "<64 hex digits>"}.')


def parse_query_string(query_string: bytes, limit: int) -> GraphQLRequest:
    """The operation in an address; variables and extensions are JSON there. Raises: TooLarge; Malformed."""
    if len(query_string) > limit:
        raise BodyTooLarge
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_URL_FIELDS
        )
        parameters: dict[str, object] = dict(pairs)
        for name in ("variables", "extensions"):
            parameters[name] = orjson.loads(text) if (text := str(parameters.get(name, ""))) else None
    except ValueError as error:
        raise MalformedRequest(f"The address holds no request: {error}.") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise MalformedRequest("Each parameter may stand in the address once.")
    return parse_request(parameters)


def _check_size(variables: dict[str, Any]) -> None:
    """Raises: Malformed: too many, too large or too deep."""
    if len(variables) > MAX_VARIABLES:
        raise MalformedRequest(f"At most {MAX_VARIABLES} variables may be sent; these are {len(variables):,}.")
    if _values_in(variables, MAX_NESTING, MAX_VALUES) < 0:
        raise MalformedRequest(f"variables may hold at most {MAX_VALUES:,} values, nested at most {MAX_NESTING} deep.")


def _values_in(container: dict[str, Any] | list[Any], levels: int, left: int) -> int:
    """How many more values there may be, of `left`, after those in here; negative: it is too deep, or has too many."""
    left -= len(container)
    if left < 0 or not levels:
        return -1
    for value in container if isinstance(container, list) else container.values():
        kind = type(value)
        if kind is dict or kind is list:
            left = _values_in(value, levels - 1, left)
            if left < 0:
                break
    return left
