"""`python -m app documents check [PATH] | manifest PATH...`"""

import sys
from collections.abc import Iterable
from pathlib import Path

from app.api.schema import build_schema
from app.engine.documents import DocumentCache
from app.engine.persisted import documents, files
from app.engine.persisted.files import DocumentProblem, PersistedDocument, UnreadableDocuments
from app.errors import Misconfigured
from app.settings import get_settings
from app.wording import counted


def check(path: Path | None) -> int:
    """Validate the documents against the schema and the limits, as a production server does.

    Returns the exit status: 1 if there are problems.

    Raises: Misconfigured: `path` is None and KNOWN_DOCUMENTS is not set.
    """
    path = path or get_settings().known_documents
    if path is None:
        raise Misconfigured("KNOWN_DOCUMENTS is not set: name the directory or manifest to check.")
    found, problems = load_and_validate([path])
    if problems:
        return _print_problems(problems)
    print(f"{path}: {counted(len(found), 'document is', 'documents are')} valid")
    return 0


def manifest(paths: Iterable[Path]) -> int:
    """Print one manifest of all documents. Returns the exit status: 1 if there are problems."""
    found, problems = load_and_validate(paths)
    if problems:
        return _print_problems(problems)
    print(files.format_manifest(found), end="")
    return 0


def load_and_validate(paths: Iterable[Path]) -> tuple[list[PersistedDocument], list[DocumentProblem]]:
    """Read the documents in directories and manifests. Return them, and every problem that prevents a start."""
    found: list[PersistedDocument] = []
    unreadable: list[DocumentProblem] = []
    for path in paths:
        try:
            found += files.read_documents(path)
        except UnreadableDocuments as error:
            unreadable += error.problems
    cache = DocumentCache(build_schema()._schema, introspection=False, suggestions=True)
    return found, unreadable + documents.validate_documents(found, cache)[1]


def _print_problems(problems: list[DocumentProblem]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"Problems: {len(problems)}. The server would not start.", file=sys.stderr)
    return 1
