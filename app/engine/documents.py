"""Parses and validates documents, caches valid documents by text, and selects operations.

A new document takes about 2 ms of CPU time. A cached one takes one dict look-up.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    get_operation_ast,
    parse,
    specified_rules,
    validate,
)

from app.engine.errors import ErrorCode
from app.engine.limits.query_complexity import exceeded_limits
from app.wording import quote_value

MAX_CACHED_DOCUMENTS: Final = 500
MAX_CACHED_LENGTH: Final = 16 * 1024
"""The maximum number of characters of a cached document.

A longer document is executed but not cached, so the cache does not exceed some tens of megabytes.
"""
MAX_LENGTH: Final = 32 * 1024
"""The maximum number of characters of a document. MAX_TOKENS does not limit comments and block strings."""
MAX_TOKENS: Final = 1_000
MAX_ERRORS: Final = 10


class InvalidDocument(Exception):
    """The document cannot be executed. `errors` says why; each error has its code in `extensions`."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors)
        self.errors = errors


class DocumentCache:
    """Caches the documents of one schema."""

    def __init__(self, schema: GraphQLSchema, *, introspection: bool, suggestions: bool | None = None) -> None:
        """`suggestions` says whether errors contain "Did you mean ...?". By default it equals `introspection`."""
        self._schema = schema
        self._suggestions = introspection if suggestions is None else suggestions
        self._rules = [*specified_rules, *(() if introspection else (NoSchemaIntrospectionCustomRule,))]
        self._cached: Callable[[str], DocumentNode] = lru_cache(maxsize=MAX_CACHED_DOCUMENTS)(self._parse_and_validate)

    def parse_and_validate(self, text: str) -> DocumentNode:
        """Return the validated document of this text. Raises: InvalidDocument."""
        return self._cached(text) if len(text) <= MAX_CACHED_LENGTH else self._parse_and_validate(text)

    def _parse_and_validate(self, text: str) -> DocumentNode:
        # lru_cache does not cache calls that raise, so invalid documents cannot displace valid ones.
        if len(text) > MAX_LENGTH:
            too_long = GraphQLError(f"A document may have at most {MAX_LENGTH:,} characters; it has {len(text):,}.")
            raise InvalidDocument([_with_code(too_long, ErrorCode.PARSE_FAILED)])
        try:
            document = parse(text, max_tokens=MAX_TOKENS)
        except GraphQLSyntaxError as error:
            raise InvalidDocument([_with_code(error, ErrorCode.PARSE_FAILED)]) from None
        # The limits are checked first, because the time of validation is quadratic in the sizes that they limit.
        errors = exceeded_limits(document, self._schema) or validate(
            self._schema, document, self._rules, max_errors=MAX_ERRORS, hide_suggestions=not self._suggestions
        )
        if errors:
            raise InvalidDocument([_with_code(error, ErrorCode.VALIDATION_FAILED) for error in errors])
        return document


def select_operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    """Return the operation of this name; if `name` is None, the only operation. Raises: InvalidDocument."""
    operation = get_operation_ast(document, name)
    if operation is not None:
        return operation
    problem = (
        "The document must hold one operation, or operationName must name one of several."
        if name is None
        else f"The document has no operation named {quote_value(name)}."
    )
    raise InvalidDocument([_with_code(GraphQLError(problem), ErrorCode.BAD_USER_INPUT)])


def _with_code(error: GraphQLError, code: ErrorCode) -> GraphQLError:
    error.extensions = {"code": code}
    return error
