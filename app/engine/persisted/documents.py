"""Persisted documents: a client sends the SHA-256 of a document's text instead of the text.

When the server starts, it reads the documents from a directory or manifest, validates them and compiles them. Clients
cannot register documents at run time. The setting ARBITRARY_DOCUMENTS lists the kinds of callers that may also send
other documents. The text of a persisted document is always accepted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from graphql import DocumentNode, OperationDefinitionNode

from app.auth.caller import Caller
from app.engine.coercion_messages import plain_message
from app.engine.documents import DocumentCache, InvalidDocument
from app.engine.errors import ErrorCode, format_error
from app.engine.persisted.files import (
    DocumentProblem,
    PersistedDocument,
    UnreadableDocuments,
    document_hash,
    read_documents,
)
from app.errors import Misconfigured

ANONYMOUS: Final = "anonymous"
CALLER_KINDS: Final = frozenset({ANONYMOUS, "users", "services", "operators"})
MAX_LISTED_PROBLEMS: Final = 10
"""The maximum number of problems in an error message. `python -m app documents check` lists all."""

NOT_FOUND: Final = format_error("PersistedQueryNotFound", ErrorCode.DOCUMENT_NOT_FOUND)
"""Clients compare with this message, so the explanation is in an extension."""
NOT_FOUND["extensions"]["reason"] = (
    "No document has this hash. Documents are not registered at run time: add it to KNOWN_DOCUMENTS and restart the "
    "server."
)


class DocumentNotServed(Exception):
    """The document is not executed for this caller. `error` is in the form in which it is sent."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error


class PersistedDocuments:
    """The persisted documents of a server, and the kinds of callers that may send other documents."""

    def __init__(
        self, documents: Iterable[PersistedDocument] = (), *, arbitrary_documents: Collection[str] = CALLER_KINDS
    ) -> None:
        """`arbitrary_documents` are the kinds of callers, of CALLER_KINDS, that may send any document."""
        self.documents = tuple(documents)
        self._texts: Mapping[str, str] = {document_hash(document.text): document.text for document in self.documents}
        self._known = frozenset(self._texts.values())
        self._arbitrary_documents = frozenset(arbitrary_documents)
        self._all_served = self._arbitrary_documents >= CALLER_KINDS

    def resolve_text(self, query: str, document_hash: str | None, caller: Caller | None) -> str:
        """Return the text of the document that a request identifies by text, hash or both.

        Raises: DocumentNotServed.
        """
        if document_hash is not None:
            query = self._find(query, document_hash)
        if self._all_served or query in self._known or _caller_kind(caller) in self._arbitrary_documents:
            return query
        callers = "anonymous callers" if caller is None else _caller_kind(caller)
        raise DocumentNotServed(
            format_error(
                f"This server does not execute arbitrary documents of {callers}: send a persisted document, by its "
                "hash or with exactly its text.",
                ErrorCode.DOCUMENT_NOT_ALLOWED,
            )
        )

    def _find(self, query: str, given_hash: str) -> str:
        if query:  # a client sends text and hash after "not found"; they must match
            if given_hash != document_hash(query):
                raise DocumentNotServed(
                    format_error("The hash is not the SHA-256 of the document sent with it.", ErrorCode.BAD_REQUEST)
                )
            return query
        if given_hash not in self._texts:
            raise DocumentNotServed(NOT_FOUND)
        return self._texts[given_hash]


def load_persisted_documents(path: Path | None, *, arbitrary_documents: Collection[str]) -> PersistedDocuments:
    """Return the documents in this directory or manifest. If `path` is None, there are none.

    Raises: Misconfigured: they cannot be read.
    """
    try:
        documents = read_documents(path) if path is not None else ()
    except UnreadableDocuments as unreadable:
        raise to_misconfigured(unreadable.problems) from None
    return PersistedDocuments(documents, arbitrary_documents=arbitrary_documents)


def to_misconfigured(problems: Sequence[DocumentProblem]) -> Misconfigured:
    """Return the error that stops the server from starting. It lists the first problems."""
    listed = "\n".join(map(str, problems[:MAX_LISTED_PROBLEMS]))
    return Misconfigured(
        f"Problems with KNOWN_DOCUMENTS: {len(problems)}; `python -m app documents check` lists all:\n{listed}"
    )


def _caller_kind(caller: Caller | None) -> str:
    return ANONYMOUS if caller is None else f"{caller.kind}s"


def operations_by_name(document: DocumentNode) -> Mapping[str | None, OperationDefinitionNode]:
    """Return the operations of a document by name. If there is only one, it also has the key None."""
    found = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    named: dict[str | None, OperationDefinitionNode] = {node.name.value: node for node in found if node.name}
    return named | {None: found[0]} if len(found) == 1 else named


def validate_documents(
    documents: Iterable[PersistedDocument], cache: DocumentCache
) -> tuple[Mapping[str, DocumentNode], list[DocumentProblem]]:
    """Return the parsed documents by text, and the problems of documents that cannot be executed.

    Several documents may have an operation of the same name, because older releases of a client may still be in use.
    """
    parsed: dict[str, DocumentNode] = {}
    problems: list[DocumentProblem] = []
    for document in documents:
        if document.text in parsed:
            continue
        try:
            found = cache.parse_and_validate(document.text)
        except InvalidDocument as invalid:
            for error in invalid.errors:
                line = error.locations[0].line if error.locations else 1
                message = f"{plain_message(error.message)} {_remedy(error.extensions)}"
                problems.append(DocumentProblem(document.location_of(line), message))
            continue
        if not operations_by_name(found):
            message = "It has no operation. Add one, or remove the document."
            problems.append(DocumentProblem(document.location_of(1), message))
        parsed[document.text] = found
    return parsed, problems


def _remedy(extensions: Mapping[str, Any] | None) -> str:
    if (extensions or {}).get("code") == ErrorCode.PARSE_FAILED:
        return "Correct the document's syntax."
    return "Change the document to what schema.graphql and the limits allow."
