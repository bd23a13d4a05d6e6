"""`python -m app documents check [PATH] | manifest PATH`"""

import sys
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
    documents, found = looked_at(place)
    if found:
        return _told(found)
    print(f"{place} can be served: {len(documents)} documents")
    return 0


def manifest(path: Path) -> int:
    """Print a manifest of documents that can be served. The exit status: 1: some cannot be."""
    documents, found = looked_at(path)
    if found:
        return _told(found)
    print(known_files.manifest(documents), end="")
    return 0


def looked_at(place: Path) -> tuple[list[KnownDocument], list[Problem]]:
    """The documents there, and everything for which they could not be served."""
    try:
        documents = known_files.read(place)
    except Unreadable as refusal:
        return [], refusal.problems
    rules = Documents(build()._schema, open_to_explorers=False, suggests=True)
    return documents, known.problems(documents, rules)


def _told(found: list[Problem]) -> int:
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"Problems: {len(found)}. The server would not start.", file=sys.stderr)
    return 1
