"""Documents known ahead: a client names one by the SHA-256 of its text, and need not send the text.

They are read from a directory or a manifest at start, checked there, and compiled before the first request. A client
cannot register one while the server runs: what is not known stays unknown until the server is started with it. Who may
send texts of its own (*free documents*) is a setting per kind of caller; a text that equals a known one is not free.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from graphql import DocumentNode, OperationDefinitionNode

from app.auth.caller import Caller
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
MAX_LISTED_PROBLEMS: Final = 10
"""Problems that a message lists; the command lists all."""
CALLER_KINDS: Final = frozenset({ANONYMOUS, "users", "services", "operators"})

NOT_FOUND: Final = format_error("PersistedQueryNotFound", ErrorCode.DOCUMENT_NOT_FOUND)
"""The message is the one that stock clients compare with; what it means here stands beside it."""
NOT_FOUND["extensions"]["reason"] = (
    "No document of this hash is known. Documents are not registered at run time: add it to KNOWN_DOCUMENTS and start "
    "the server anew."
)


class DocumentNotServed(Exception):
    """The document is not carried out for this caller; `error` is as it is sent."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        self.error = problem


class PersistedDocuments:
    """The known documents of one server, and who may send others."""

    def __init__(
        self, documents: Iterable[PersistedDocument] = (), *, arbitrary_documents: Collection[str] = CALLER_KINDS
    ) -> None:
        """`free_for`: kinds of callers that may send any text, of CALLERS."""
        self.documents = tuple(documents)
        self._texts: Mapping[str, str] = {document_hash(document.text): document.text for document in self.documents}
        self._known = frozenset(self._texts.values())
        self._free_for = frozenset(arbitrary_documents)
        self._all_free = self._free_for >= CALLER_KINDS

    def resolve_text(self, query: str, document_hash: str | None, caller: Caller | None) -> str:
        """The text that a caller means by a text, a hash (as `hash_of` writes it), or both. Raises: NotServed."""
        if document_hash is not None:
            query = self._named(query, document_hash)
        if self._all_free or query in self._known or _kind(caller) in self._free_for:
            return query
        callers = "anonymous callers" if caller is None else _kind(caller)
        raise DocumentNotServed(
            format_error(
                f"Texts of one's own are not served to {callers} here: send a known document, by its hash or by "
                "exactly its text.",
                ErrorCode.DOCUMENT_NOT_ALLOWED,
            )
        )

    def _named(self, query: str, hash: str) -> str:
        if query:  # a client that was told "not found" sends both: the text is then what counts
            if hash != document_hash(query):
                raise DocumentNotServed(
                    format_error("The hash is not the SHA-256 of the document sent with it.", ErrorCode.BAD_REQUEST)
                )
            return query
        if hash not in self._texts:
            raise DocumentNotServed(NOT_FOUND)
        return self._texts[hash]


def load_persisted_documents(path: Path | None, *, arbitrary_documents: Collection[str]) -> PersistedDocuments:
    """The library in these files; None: it is empty. Raises: Misconfigured: they cannot be read."""
    try:
        return PersistedDocuments(
            read_documents(path) if path is not None else (), arbitrary_documents=arbitrary_documents
        )
    except UnreadableDocuments as refusal:
        raise to_misconfigured(refusal.problems) from None


def to_misconfigured(found: Sequence[DocumentProblem]) -> Misconfigured:
    """Why nothing starts with these problems: the first of them in words."""
    listed = "\n".join(map(str, found[:MAX_LISTED_PROBLEMS]))
    return Misconfigured(
        f"Problems with KNOWN_DOCUMENTS: {len(found)}; `python -m app documents check` lists all:\n{listed}"
    )


def _kind(caller: Caller | None) -> str:
    return ANONYMOUS if caller is None else f"{caller.kind}s"


def operations_by_name(document: DocumentNode) -> Mapping[str | None, OperationDefinitionNode]:
    """The operations of a document by the names that a request may give; None: the only one."""
    found = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    named: dict[str | None, OperationDefinitionNode] = {node.name.value: node for node in found if node.name}
    return named | {None: found[0]} if len(found) == 1 else named


def validate_documents(
    documents: Iterable[PersistedDocument], rules: DocumentCache
) -> tuple[Mapping[str, DocumentNode], list[DocumentProblem]]:
    """What these texts say, by text, and everything for which some could not be carried out, by the schema and the
    limits.

    Operations of one name may stand in several texts: those of older releases of a client beside today's.
    """
    said: dict[str, DocumentNode] = {}
    found: list[DocumentProblem] = []
    for document in documents:
        if document.text in said:
            continue
        try:
            parsed = rules.parse_and_validate(document.text)
        except InvalidDocument as refused:
            for problem in refused.errors:
                line = problem.locations[0].line if problem.locations else 1
                found.append(
                    DocumentProblem(document.location_of(line), f"{problem.message} {_remedy(problem.extensions)}")
                )
            continue
        if not operations_by_name(parsed):
            found.append(
                DocumentProblem(document.location_of(1), "It holds no operation. Add one, or remove the document.")
            )
        said[document.text] = parsed
    return said, found


def _remedy(extensions: Mapping[str, Any] | None) -> str:
    if (extensions or {}).get("code") == ErrorCode.PARSE_FAILED:
        return "Mend the document's syntax."
    return "Change the document to what schema.graphql and the limits allow."
