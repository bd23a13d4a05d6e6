"""`python -m app documents check [PATH] | manifest PATH...`"""

import sys
from collections.abc import Iterable
from pathlib import Path

from app.errors import Misconfigured
from app.graphql import known, known_files
from app.graphql.documents import Documents
from app.graphql.known_files import KnownDocument, Problem, Unreadable
from app.graphql.schema import build
from app.settings import settings


def check(path: Path | None) -> int:
    """Hold the documents against the schema and the limits, as production does. The exit status: 1: there are problems.

    Raises: Misconfigured: neither PATH nor KNOWN_DOCUMENTS says where they are.
    """
    place = path or settings().known_documents
    if place is None:
        raise Misconfigured("KNOWN_DOCUMENTS is not set: name the directory or manifest to check.")
    documents, found = looked_at([place])
    if found:
        return _told(found)
    print(f"{place} can be served: {len(documents)} documents")
    return 0


def manifest(paths: Iterable[Path]) -> int:
    """Print one manifest of documents that can be served. The exit status: 1: some cannot be."""
    documents, found = looked_at(paths)
    if found:
        return _told(found)
    print(known_files.manifest(documents), end="")
    return 0


def looked_at(places: Iterable[Path]) -> tuple[list[KnownDocument], list[Problem]]:
    """The documents there, and everything for which they could not be served."""
    documents: list[KnownDocument] = []
    unreadable: list[Problem] = []
    for place in places:
        try:
            documents += known_files.read(place)
        except Unreadable as refusal:
            unreadable += refusal.problems
    rules = Documents(build()._schema, open_to_explorers=False, suggests=True)
    return documents, unreadable + known.prepared(documents, rules)[1]


def _told(found: list[Problem]) -> int:
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"Problems: {len(found)}. The server would not start.", file=sys.stderr)
    return 1
