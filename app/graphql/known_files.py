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
APOLLO: Final = "apollo-persisted-query-manifest"
SHAPES: Final = 'Write {"<sha256>": "<text>", ...}, or an apollo-persisted-query-manifest of version 1.'


def hash_of(text: str) -> str:
    """How a document is named: SHA-256 of its exact text in UTF-8, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do; `place`: file and line."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Unreadable(Exception):
    """The files cannot be read as documents; `problems` say each why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """A document and where it stands: a file of its own, or a line of a manifest."""

    text: str
    file: str
    line_in_manifest: int | None = None

    def at(self, line: int) -> str:
        """The place of a line of the text."""
        if self.line_in_manifest is None:
            return f"{self.file}:{line}"
        return f"{self.file}:{self.line_in_manifest} (line {line} of the text)"


def read(path: Path) -> list[KnownDocument]:
    """The documents of a directory or a manifest. Raises: Unreadable."""
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _manifest(path)
    raise Unreadable(
        [Problem(str(path), "There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it.")]
    )


def _directory(path: Path) -> list[KnownDocument]:
    files = sorted(file for file in path.rglob("*.graphql") if not file.is_dir())
    if not files:
        raise Unreadable([Problem(str(path), "It holds no *.graphql. Put one document into each such file.")])
    _check_bounds(path, len(files), sum(file.stat().st_size for file in files if file.exists()))
    found, problems = [], []
    for file in files:
        try:
            # Bytes: reading as text would turn "\r\n" into "\n", and the hash would be another than the client's.
            found.append(KnownDocument(file.read_bytes().decode(), str(file)))
        except UnicodeDecodeError as fault:
            line = fault.object.count(b"\n", 0, fault.start) + 1
            problems.append(Problem(f"{file}:{line}", "It is not UTF-8. Save it as UTF-8."))
        except OSError as fault:
            problems.append(_unreadable(file, fault))
    if problems:
        raise Unreadable(problems)
    return found


def _manifest(path: Path) -> list[KnownDocument]:
    _check_bounds(path, 0, path.stat().st_size)
    content, held = _json(path)
    found, problems = [], []
    position, line = 0, 1
    for hash, text in _entries(held, path):
        at = content.find(json.dumps(hash), position)  # they come in the order of the file
        if at >= 0:
            position, line = at, line + content.count("\n", position, at)
        if not isinstance(text, str):
            problems.append(Problem(f"{path}:{line}", f"{hash[:80]!r} is not a text. {SHAPES}"))
        elif hash.lower().removeprefix("sha256:") != hash_of(text):
            told = f"{hash[:80]!r} is not the SHA-256 of its text. Have the client's compiler use SHA-256."
            problems.append(Problem(f"{path}:{line}", told))
        else:
            found.append(KnownDocument(text, str(path), line))
    if problems:
        raise Unreadable(problems)
    if not found:
        raise Unreadable([Problem(f"{path}:1", f"It holds no document. {SHAPES}")])
    _check_bounds(path, len(found), 0)
    return found


def _json(path: Path) -> tuple[str, object]:
    """The text of a manifest and what it holds. Raises: Unreadable."""
    try:
        content = path.read_bytes().decode()
        return content, json.loads(content)
    except OSError as fault:
        raise Unreadable([_unreadable(path, fault)]) from None
    except json.JSONDecodeError as fault:
        raise Unreadable([Problem(f"{path}:{fault.lineno}", f"It is not JSON ({fault.msg}). {SHAPES}")]) from None
    except (ValueError, RecursionError):  # no UTF-8, a number of thousands of digits, nested beyond reason
        raise Unreadable([Problem(f"{path}:1", f"It is not JSON in UTF-8. {SHAPES}")]) from None


def _entries(held: object, path: Path) -> Iterator[tuple[str, object]]:
    """Hash and text of each document of a manifest. Raises: Unreadable: it has another shape."""
    match held:
        case {"format": name, **rest}:
            listed = rest.get("operations")
            if name != APOLLO or rest.get("version") != 1 or not isinstance(listed, list):
                told = f"Format {str(name)[:80]!r} of version {str(rest.get('version'))[:80]} is not known. {SHAPES}"
                raise Unreadable([Problem(f"{path}:1", told)])
            for number, operation in enumerate(listed, 1):
                yield _apollo(operation, number, path)
        case dict():
            yield from held.items()
        case _:
            raise Unreadable([Problem(f"{path}:1", f"It is neither of the two shapes. {SHAPES}")])


def _apollo(operation: object, number: int, path: Path) -> tuple[str, object]:
    match operation:
        case {"id": str(hash), "body": text}:
            return hash, text
        case _:
            raise Unreadable([Problem(f"{path}:1", f"Its operation number {number} has no id or no body. {SHAPES}")])


def _unreadable(path: Path, fault: OSError) -> Problem:
    return Problem(str(path), f"It cannot be read ({fault.strerror}). Let the server's user read it, or remove it.")


def _check_bounds(path: Path, documents: int, size_bytes: int) -> None:
    if documents > MAX_DOCUMENTS or size_bytes > MAX_BYTES:
        told = f"It holds more than {MAX_DOCUMENTS:,} documents or {MAX_BYTES:,} bytes. Keep the ones in use."
        raise Unreadable([Problem(str(path), told)])


def manifest(documents: Iterable[KnownDocument]) -> str:
    """The documents as a manifest by hash, one a line, in the order of the hashes."""
    texts = sorted({hash_of(document.text): document.text for document in documents}.items())
    return "{\n" + ",\n".join(f"  {json.dumps(hash)}: {json.dumps(text)}" for hash, text in texts) + "\n}\n"
