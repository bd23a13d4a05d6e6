"""Reads and writes the files of persisted documents: a directory of `*.graphql` files, or a JSON manifest.

In a directory, the exact text of each file, including line ends, is one document. A manifest has one of these forms:

    {"<sha256>": "<text>", ...}                                         as written by Relay's compiler
    {"format": "apollo-persisted-query-manifest", "version": 1,
     "operations": [{"id": "<sha256>", "name": "...", "type": "...", "body": "<text>"}, ...]}
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.wording import quote_value

MAX_DOCUMENTS: Final = 2_000
MAX_BYTES: Final = 16 * 1024 * 1024
"""The maximum size of all documents together."""
APOLLO_FORMAT: Final = "apollo-persisted-query-manifest"
EXPECTED_FORMAT: Final = 'Write {"<sha256>": "<text>", ...}, or an apollo-persisted-query-manifest of version 1.'


def document_hash(text: str) -> str:
    """Return the SHA-256 of the document's exact text in UTF-8, in lower-case hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class DocumentProblem:
    location: str
    """The file and the line."""
    message: str
    """What is wrong, and what to do."""

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class UnreadableDocuments(Exception):
    """The files cannot be read as documents. `problems` contains the reasons, each with its location."""

    def __init__(self, *problems: DocumentProblem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class PersistedDocument:
    text: str
    file: str
    manifest_line: int | None = None
    """The line in the manifest, or None if the document has its own file."""

    def location_of(self, line: int) -> str:
        """Return the location of a line of the text."""
        if self.manifest_line is None:
            return f"{self.file}:{line}"
        return f"{self.file}:{self.manifest_line} (line {line} of the text)"


def read_documents(path: Path) -> list[PersistedDocument]:
    """Return the documents of a directory or manifest. Raises: UnreadableDocuments."""
    if path.is_dir():
        return _read_directory(path)
    if path.is_file():
        return _read_manifest(path)
    raise UnreadableDocuments(
        DocumentProblem(str(path), "There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it.")
    )


def format_manifest(documents: Iterable[PersistedDocument]) -> str:
    """Return a manifest in the first of these forms, with one document on each line, ordered by hash."""
    texts = sorted({document_hash(document.text): document.text for document in documents}.items())
    return "{\n" + ",\n".join(f"  {json.dumps(hash)}: {json.dumps(text)}" for hash, text in texts) + "\n}\n"


def _read_directory(path: Path) -> list[PersistedDocument]:
    files = sorted(file for file in path.rglob("*.graphql") if not file.is_dir())
    if not files:
        raise UnreadableDocuments(
            DocumentProblem(str(path), "It has no *.graphql file. Put one document into each such file.")
        )
    _check_limits(path, len(files), sum(file.stat().st_size for file in files if file.exists()))
    found, problems = [], []
    for file in files:
        try:
            # Read as bytes, because text mode would convert "\r\n" to "\n", and the hash would differ from the
            # client's.
            found.append(PersistedDocument(file.read_bytes().decode(), str(file)))
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            problems.append(DocumentProblem(f"{file}:{line}", "It is not UTF-8. Save it as UTF-8."))
        except OSError as error:
            problems.append(_unreadable(file, error))
    if problems:
        raise UnreadableDocuments(*problems)
    return found


def _read_manifest(path: Path) -> list[PersistedDocument]:
    _check_limits(path, 0, path.stat().st_size)
    content, manifest = _read_json(path)
    found, problems = [], []
    position, line = 0, 1
    for hash, text in _entries(manifest, path):
        start = content.find(json.dumps(hash), position)  # the entries are in the order of the file
        if start >= 0:
            position, line = start, line + content.count("\n", position, start)
        if not isinstance(text, str):
            problems.append(DocumentProblem(f"{path}:{line}", f"{quote_value(hash)} is not a text. {EXPECTED_FORMAT}"))
        elif hash.lower().removeprefix("sha256:") != document_hash(text):
            message = (
                f"{quote_value(hash)} is not the SHA-256 of its text. Configure the client's compiler to use SHA-256."
            )
            problems.append(DocumentProblem(f"{path}:{line}", message))
        else:
            found.append(PersistedDocument(text, str(path), line))
    if problems:
        raise UnreadableDocuments(*problems)
    if not found:
        raise UnreadableDocuments(DocumentProblem(f"{path}:1", f"It has no document. {EXPECTED_FORMAT}"))
    _check_limits(path, len(found), 0)
    return found


def _read_json(path: Path) -> tuple[str, object]:
    """Return the text of a manifest and its JSON value. Raises: UnreadableDocuments."""
    try:
        content = path.read_bytes().decode()
        return content, json.loads(content)
    except OSError as error:
        problem = _unreadable(path, error)
    except json.JSONDecodeError as error:
        problem = DocumentProblem(f"{path}:{error.lineno}", f"It is not JSON ({error.msg}). {EXPECTED_FORMAT}")
    except (ValueError, RecursionError):  # not UTF-8, too many digits, or nested too deep
        problem = DocumentProblem(f"{path}:1", f"It is not JSON in UTF-8. {EXPECTED_FORMAT}")
    raise UnreadableDocuments(problem)


def _entries(manifest: object, path: Path) -> Iterator[tuple[str, object]]:
    """Return the hash and text of each document in a manifest. Raises: UnreadableDocuments: the format is unknown."""
    match manifest:
        case {"format": name, **rest}:
            operations = rest.get("operations")
            if name != APOLLO_FORMAT or rest.get("version") != 1 or not isinstance(operations, list):
                version = json.dumps(rest.get("version"))[:80]
                message = f"Format {json.dumps(name)[:80]} of version {version} is not supported. {EXPECTED_FORMAT}"
                raise UnreadableDocuments(DocumentProblem(f"{path}:1", message))
            for number, operation in enumerate(operations, 1):
                yield _apollo_entry(operation, number, path)
        case dict():
            yield from manifest.items()
        case _:
            raise UnreadableDocuments(DocumentProblem(f"{path}:1", f"It is in neither format. {EXPECTED_FORMAT}"))


def _apollo_entry(operation: object, number: int, path: Path) -> tuple[str, object]:
    match operation:
        case {"id": str(hash), "body": text}:
            return hash, text
        case _:
            message = f"Its operation number {number} has no id or no body. {EXPECTED_FORMAT}"
            raise UnreadableDocuments(DocumentProblem(f"{path}:1", message))


def _unreadable(path: Path, error: OSError) -> DocumentProblem:
    return DocumentProblem(
        str(path), f"It cannot be read ({error.strerror}). Let the server's user read it, or remove it."
    )


def _check_limits(path: Path, documents: int, size_bytes: int) -> None:
    if documents > MAX_DOCUMENTS or size_bytes > MAX_BYTES:
        message = f"It has more than {MAX_DOCUMENTS:,} documents or {MAX_BYTES:,} bytes. Keep the ones in use."
        raise UnreadableDocuments(DocumentProblem(str(path), message))
