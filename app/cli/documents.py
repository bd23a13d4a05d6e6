"""`python -m app documents check [PATH] | manifest PATH...`"""

import sys
from collections.abc import Iterable
from pathlib import Path

from app.api.schema import build_schema
from app.engine.documents import DocumentCache
from app.engine.persisted import documents as known
from app.engine.persisted import files
from app.engine.persisted.files import DocumentProblem, PersistedDocument, UnreadableDocuments
from app.errors import Misconfigured
from app.settings import get_settings


def check(path: Path | None) -> int:
    """Hold the documents against the schema and the limits, as production does. The exit status: 1: there are problems.

    Raises: Misconfigured: neither PATH nor KNOWN_DOCUMENTS says where they are.
    """
    place = path or get_settings().known_documents
    if place is None:
        raise Misconfigured("KNOWN_DOCUMENTS is not set: name the directory or manifest to check.")
    documents, found = load_and_validate([place])
    if found:
        return _told(found)
    print(f"{place} can be served: {len(documents)} documents")
    return 0


def manifest(paths: Iterable[Path]) -> int:
    """Print one manifest of documents that can be served. The exit status: 1: some cannot be."""
    documents, found = load_and_validate(paths)
    if found:
        return _told(found)
    print(files.format_manifest(documents), end="")
    return 0


def load_and_validate(places: Iterable[Path]) -> tuple[list[PersistedDocument], list[DocumentProblem]]:
    """The documents there, and everything for which they could not be served."""
    documents: list[PersistedDocument] = []
    unreadable: list[DocumentProblem] = []
    for place in places:
        try:
            documents += files.read_documents(place)
        except UnreadableDocuments as refusal:
            unreadable += refusal.problems
    rules = DocumentCache(build_schema()._schema, introspection=False, suggestions=True)
    return documents, unreadable + known.validate_documents(documents, rules)[1]


def _told(found: list[DocumentProblem]) -> int:
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"Problems: {len(found)}. The server would not start.", file=sys.stderr)
    return 1
