"""The files that hold known documents, as they stand: a directory of `*.graphql`, or a manifest in JSON.

A file of a directory is one document: exactly its text, line ends included. A manifest is one of

    {"<sha256>": "<text>", ...}                                         as Relay's compiler writes it
    {"format": "apollo-persisted-query-manifest", "version": 1,
     "operations": [{"id": "<sha256>", "name": "...", "type": "...", "body": "<text>"}, ...]}
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_DOCUMENTS: Final = 2_000
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of all documents together."""
APOLLO_FORMAT: Final = "apollo-persisted-query-manifest"
EXPECTED_FORMAT: Final = 'Write {"<sha256>": "<text>", ...}, or an apollo-persisted-query-manifest of version 1.'


def document_hash(text: str) -> str:
    """How a document is named: SHA-256 of its exact text in UTF-8, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class DocumentProblem:
    """What is wrong, and what to do; `place`: file and line."""

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class UnreadableDocuments(Exception):
    """The files cannot be read as documents; `problems` say each why."""

    def __init__(self, problems: list[DocumentProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class PersistedDocument:
    """A document and where it stands: a file of its own, or a line of a manifest."""

    text: str
    file: str
    manifest_line: int | None = None

    def location_of(self, line: int) -> str:
        """The place of a line of the text."""
        if self.manifest_line is None:
            return f"{self.file}:{line}"
        return f"{self.file}:{self.manifest_line} (line {line} of the text)"


def read_documents(path: Path) -> list[PersistedDocument]:
    """The documents of a directory or a manifest. Raises: Unreadable."""
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _manifest(path)
    raise UnreadableDocuments(
        [DocumentProblem(str(path), "There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it.")]
    )


def _directory(path: Path) -> list[PersistedDocument]:
    files = sorted(file for file in path.rglob("*.graphql") if not file.is_dir())
    if not files:
        raise UnreadableDocuments(
            [DocumentProblem(str(path), "It holds no *.graphql. Put one document into each such file.")]
        )
    _check_bounds(path, len(files), sum(file.stat().st_size for file in files if file.exists()))
    found, problems = [], []
    for file in files:
        try:
            # Bytes: reading as text would turn "\r\n" into "\n", and the hash would be another than the client's.
            found.append(PersistedDocument(file.read_bytes().decode(), str(file)))
        except UnicodeDecodeError as fault:
            line = fault.object.count(b"\n", 0, fault.start) + 1
            problems.append(DocumentProblem(f"{file}:{line}", "It is not UTF-8. Save it as UTF-8."))
        except OSError as fault:
            problems.append(_unreadable(file, fault))
    if problems:
        raise UnreadableDocuments(problems)
    return found


def _manifest(path: Path) -> list[PersistedDocument]:
    _check_bounds(path, 0, path.stat().st_size)
    content, held = _json(path)
    found, problems = [], []
    position, line = 0, 1
    for hash, text in _entries(held, path):
        at = content.find(json.dumps(hash), position)  # they come in the order of the file
        if at >= 0:
            position, line = at, line + content.count("\n", position, at)
        if not isinstance(text, str):
            problems.append(DocumentProblem(f"{path}:{line}", f"{hash[:80]!r} is not a text. {EXPECTED_FORMAT}"))
        elif hash.lower().removeprefix("sha256:") != document_hash(text):
            told = f"{hash[:80]!r} is not the SHA-256 of its text. Have the client's compiler use SHA-256."
            problems.append(DocumentProblem(f"{path}:{line}", told))
        else:
            found.append(PersistedDocument(text, str(path), line))
    if problems:
        raise UnreadableDocuments(problems)
    if not found:
        raise UnreadableDocuments([DocumentProblem(f"{path}:1", f"It holds no document. {EXPECTED_FORMAT}")])
    _check_bounds(path, len(found), 0)
    return found


def _json(path: Path) -> tuple[str, object]:
    """The text of a manifest and what it holds. Raises: Unreadable."""
    try:
        content = path.read_bytes().decode()
        return content, json.loads(content)
    except OSError as fault:
        raise UnreadableDocuments([_unreadable(path, fault)]) from None
    except json.JSONDecodeError as fault:
        raise UnreadableDocuments(
            [DocumentProblem(f"{path}:{fault.lineno}", f"It is not JSON ({fault.msg}). {EXPECTED_FORMAT}")]
        ) from None
    except (ValueError, RecursionError):  # no UTF-8, a number of thousands of digits, nested beyond reason
        raise UnreadableDocuments(
            [DocumentProblem(f"{path}:1", f"It is not JSON in UTF-8. {EXPECTED_FORMAT}")]
        ) from None


def _entries(held: object, path: Path) -> Iterator[tuple[str, object]]:
    """Hash and text of each document of a manifest. Raises: Unreadable: it has another shape."""
    match held:
        case {"format": name, **rest}:
            listed = rest.get("operations")
            if name != APOLLO_FORMAT or rest.get("version") != 1 or not isinstance(listed, list):
                told = f"Format {str(name)[:80]!r} of version {str(rest.get('version'))[:80]} is not known. {EXPECTED_FORMAT}"
                raise UnreadableDocuments([DocumentProblem(f"{path}:1", told)])
            for number, operation in enumerate(listed, 1):
                yield _apollo(operation, number, path)
        case dict():
            yield from held.items()
        case _:
            raise UnreadableDocuments(
                [DocumentProblem(f"{path}:1", f"It is neither of the two shapes. {EXPECTED_FORMAT}")]
            )


def _apollo(operation: object, number: int, path: Path) -> tuple[str, object]:
    match operation:
        case {"id": str(hash), "body": text}:
            return hash, text
        case _:
            raise UnreadableDocuments(
                [DocumentProblem(f"{path}:1", f"Its operation number {number} has no id or no body. {EXPECTED_FORMAT}")]
            )


def _unreadable(path: Path, fault: OSError) -> DocumentProblem:
    return DocumentProblem(
        str(path), f"It cannot be read ({fault.strerror}). Let the server's user read it, or remove it."
    )


def _check_bounds(path: Path, documents: int, size_bytes: int) -> None:
    if documents > MAX_DOCUMENTS or size_bytes > MAX_BYTES:
        told = f"It holds more than {MAX_DOCUMENTS:,} documents or {MAX_BYTES:,} bytes. Keep the ones in use."
        raise UnreadableDocuments([DocumentProblem(str(path), told)])


def format_manifest(documents: Iterable[PersistedDocument]) -> str:
    """The documents as a manifest by hash, one a line, in the order of the hashes."""
    texts = sorted({document_hash(document.text): document.text for document in documents}.items())
    return "{\n" + ",\n".join(f"  {json.dumps(hash)}: {json.dumps(text)}" for hash, text in texts) + "\n}\n"
