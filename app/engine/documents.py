"""A document is parsed, guarded and validated once: an unseen one costs a millisecond of CPU, a known one a look-up."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    parse,
    specified_rules,
    validate,
)

from app.engine.errors import ErrorCode
from app.engine.limits.query_complexity import exceeded_limits
from app.engine.validation import combine_rules

MAX_CACHED_DOCUMENTS: Final = 500
MAX_CACHED_LENGTH: Final = 16 * 1024
"""A longer text is served but not kept, so that the cache stays within some tens of megabytes."""
MAX_LENGTH: Final = 32 * 1024
"""In characters, of which a text may have many and still few tokens: a comment, a string of many lines."""
MAX_TOKENS: Final = 1_000
MAX_ERRORS: Final = 10


class InvalidDocument(Exception):
    """The document cannot be executed; `errors` say why, each with its code in `extensions`."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors)
        self.errors = errors


class DocumentCache:
    """The documents of one schema."""

    def __init__(self, schema: GraphQLSchema, *, introspection: bool, suggestions: bool | None = None) -> None:
        """`open_to_explorers`: whether introspection is on, and unless `suggests` says otherwise "Did you mean …?"."""
        self._schema = schema
        self._suggests = introspection if suggestions is None else suggestions
        closed = () if introspection else (NoSchemaIntrospectionCustomRule,)
        self._rules = [combine_rules((*specified_rules, *closed))]
        self._known: Callable[[str], DocumentNode] = lru_cache(maxsize=MAX_CACHED_DOCUMENTS)(self._prepared)

    def parse_and_validate(self, text: str) -> DocumentNode:
        """The document of this text, ready to execute. Raises: DocumentRefused."""
        return self._known(text) if len(text) <= MAX_CACHED_LENGTH else self._prepared(text)

    def _prepared(self, text: str) -> DocumentNode:
        # What is refused raises and so is not kept: it cannot drive the good documents out.
        if len(text) > MAX_LENGTH:
            too_long = GraphQLError(f"A document may have at most {MAX_LENGTH:,} characters; it has {len(text):,}.")
            raise InvalidDocument([_coded(too_long, ErrorCode.PARSE_FAILED)])
        try:
            document = parse(text, max_tokens=MAX_TOKENS)
        except GraphQLSyntaxError as error:
            raise InvalidDocument([_coded(error, ErrorCode.PARSE_FAILED)]) from None
        # The guards come first: validation itself is quadratic in what they bound.
        errors = exceeded_limits(document, self._schema) or validate(
            self._schema, document, self._rules, max_errors=MAX_ERRORS, hide_suggestions=not self._suggests
        )
        if errors:
            raise InvalidDocument([_coded(error, ErrorCode.VALIDATION_FAILED) for error in errors])
        return document


def _coded(error: GraphQLError, code: ErrorCode) -> GraphQLError:
    error.extensions = {"code": code}
    return error
