"""The files of persisted documents: which are read, and the problems reported for the others."""

import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.documents import DocumentCache
from app.engine.limits.query_complexity import MAX_DEPTH
from app.engine.persisted import files
from app.engine.persisted.documents import validate_documents
from app.engine.persisted.files import (
    APOLLO_FORMAT,
    EXPECTED_FORMAT,
    DocumentProblem,
    PersistedDocument,
    UnreadableDocuments,
    document_hash,
    format_manifest,
    read_documents,
)
from tests.engine import sample_schema

HELLO = "query Hello {\n  hello\n}\n"
ME = "query Me {\n  me\n}\n"
LET_READ = "Let the server's user read it, or remove it."
PRODUCTION = DocumentCache(sample_schema.schema._schema, introspection=False, suggestions=True)


def problems(*documents: PersistedDocument) -> list[DocumentProblem]:
    """The problems of these documents in production."""
    return validate_documents(documents, PRODUCTION)[1]


def digest(text: str) -> str:
    """The hash, computed as a client's compiler does."""
    return sha256(text.encode()).hexdigest()


def refused(path: Path) -> list[str]:
    """The problems of unreadable files, without the name of their directory."""
    with pytest.raises(UnreadableDocuments) as unreadable:
        read_documents(path)
    return [str(problem).replace(f"{path.parent}/", "") for problem in unreadable.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty directory for documents."""
    made = tmp_path / "documents"
    made.mkdir()
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a manifest."""
    return tmp_path / "manifest.json"


def test_each_graphql_file_below_a_directory_is_a_document(folder: Path) -> None:
    (folder / "pages" / "header").mkdir(parents=True)
    (folder / "pages" / "header" / "me.graphql").write_text(ME)
    (folder / "hello.graphql").write_text(HELLO)
    (folder / "notes.txt").write_text("no document")
    (folder / "old.graphql").mkdir()
    assert read_documents(folder) == [
        PersistedDocument(HELLO, f"{folder}/hello.graphql"),
        PersistedDocument(ME, f"{folder}/pages/header/me.graphql"),
    ]


@pytest.mark.parametrize(
    "text", [HELLO.replace("\n", "\r\n"), HELLO.replace("\n", "\r"), "{ hello }  ", "\ufeff{ hello }"]
)
def test_line_ends_and_spaces_are_kept(folder: Path, text: str) -> None:
    (folder / "hello.graphql").write_bytes(text.encode())
    [document] = read_documents(folder)
    assert document.text == text
    assert document_hash(document.text) == sha256((folder / "hello.graphql").read_bytes()).hexdigest()
    assert problems(document) == []


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_a_manifest_of_relays_compiler_is_read(file: Path, prefix: str) -> None:
    held = {prefix + digest(HELLO): HELLO, prefix + digest(ME).upper(): ME}
    file.write_text(json.dumps(held, indent=2))
    assert read_documents(file) == [PersistedDocument(HELLO, str(file), 2), PersistedDocument(ME, str(file), 3)]


def test_a_manifest_of_apollo_is_read(file: Path) -> None:
    operations = [
        {"id": digest(text), "name": name, "type": "query", "body": text} for name, text in (("H", HELLO), ("M", ME))
    ]
    held = {"format": "apollo-persisted-query-manifest", "version": 1, "operations": operations}
    file.write_text(json.dumps(held, indent=2))
    assert read_documents(file) == [PersistedDocument(HELLO, str(file), 6), PersistedDocument(ME, str(file), 12)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5, unique=True))
def test_a_written_manifest_is_read_back_unchanged(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "manifest.json"
        path.write_bytes(format_manifest(PersistedDocument(text, "x.graphql") for text in texts * 2).encode())
        found = read_documents(path)
    assert sorted(document.text for document in found) == sorted(texts)
    assert [document.manifest_line for document in found] == list(range(2, len(texts) + 2))


def test_a_manifest_is_ordered_by_hash_with_one_document_per_line() -> None:
    documents = [PersistedDocument(text, "x.graphql") for text in (HELLO, ME, HELLO)]
    first, second = sorted((digest(text), json.dumps(text)) for text in (HELLO, ME))
    written = f'{{\n  "{first[0]}": {first[1]},\n  "{second[0]}": {second[1]}\n}}\n'
    assert format_manifest(documents) == format_manifest(reversed(documents)) == written


def test_a_missing_path_is_reported_with_the_setting(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == [
        "gone: There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it."
    ]


def test_a_directory_without_documents_is_reported(folder: Path) -> None:
    (folder / "hello.gql").write_text(HELLO)
    assert refused(folder) == ["documents: It has no *.graphql file. Put one document into each such file."]


def test_every_unreadable_file_is_reported_with_its_line(folder: Path) -> None:
    (folder / "a.graphql").write_text(HELLO)
    (folder / "b.graphql").write_bytes(b"query {\n  hello # caf\xe9\n}\n")
    (folder / "c.graphql").symlink_to(folder / "gone")
    (folder / "d.graphql").write_bytes(HELLO.encode("utf-16"))
    assert refused(folder) == [
        "documents/b.graphql:2: It is not UTF-8. Save it as UTF-8.",
        f"documents/c.graphql: It cannot be read (No such file or directory). {LET_READ}",
        "documents/d.graphql:1: It is not UTF-8. Save it as UTF-8.",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_manifest_without_read_permission_is_reported(file: Path) -> None:
    file.write_text("{}")
    file.chmod(0)
    assert refused(file) == [f"manifest.json: It cannot be read (Permission denied). {LET_READ}"]


def apollo_manifest(**changed: object) -> str:
    known: dict[str, object] = {"format": "apollo-persisted-query-manifest", "version": 1, "operations": []}
    return json.dumps(known | changed)


MD5 = "5d41402abc4b2a76b9719d911017c592"
OTHER_HASH = "is not the SHA-256 of its text. Configure the client's compiler to use SHA-256."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", f"manifest.json:1: It is not JSON (Expecting value). {EXPECTED_FORMAT}"),
        ('{\n  "a"\n}', f"manifest.json:3: It is not JSON (Expecting ':' delimiter). {EXPECTED_FORMAT}"),
        (b'{"caf\xe9": ""}', f"manifest.json:1: It is not JSON in UTF-8. {EXPECTED_FORMAT}"),
        ("[" * 100_000, f"manifest.json:1: It is not JSON in UTF-8. {EXPECTED_FORMAT}"),
        ("9" * 5_000, f"manifest.json:1: It is not JSON in UTF-8. {EXPECTED_FORMAT}"),
        ("[]", f"manifest.json:1: It is in neither format. {EXPECTED_FORMAT}"),
        ("null", f"manifest.json:1: It is in neither format. {EXPECTED_FORMAT}"),
        ('"{ hello }"', f"manifest.json:1: It is in neither format. {EXPECTED_FORMAT}"),
        ("{}", f"manifest.json:1: It has no document. {EXPECTED_FORMAT}"),
        (apollo_manifest(), f"manifest.json:1: It has no document. {EXPECTED_FORMAT}"),
        (
            apollo_manifest(format="another"),
            f'manifest.json:1: Format "another" of version 1 is not supported. {EXPECTED_FORMAT}',
        ),
        (
            apollo_manifest(version=2),
            f'manifest.json:1: Format "{APOLLO_FORMAT}" of version 2 is not supported. {EXPECTED_FORMAT}',
        ),
        (
            apollo_manifest(operations={}),
            f'manifest.json:1: Format "{APOLLO_FORMAT}" of version 1 is not supported. {EXPECTED_FORMAT}',
        ),
        (
            apollo_manifest(operations=[{"id": digest(HELLO), "body": HELLO}, {"body": ME}]),
            f"manifest.json:1: Its operation number 2 has no id or no body. {EXPECTED_FORMAT}",
        ),
        (
            apollo_manifest(operations=[{"id": digest(HELLO)}]),
            f"manifest.json:1: Its operation number 1 has no id or no body. {EXPECTED_FORMAT}",
        ),
        (
            apollo_manifest(operations=["{ hello }"]),
            f"manifest.json:1: Its operation number 1 has no id or no body. {EXPECTED_FORMAT}",
        ),
        ('{\n"operations": []\n}', f'manifest.json:2: "operations" is not a text. {EXPECTED_FORMAT}'),
        ('{\n\n"Hello": 7\n}', f'manifest.json:3: "Hello" is not a text. {EXPECTED_FORMAT}'),
        (json.dumps({MD5: HELLO}), f'manifest.json:1: "{MD5}" {OTHER_HASH}'),
        (
            json.dumps({digest(ME): ME, digest(HELLO): HELLO + "\n"}, indent=1),
            f'manifest.json:3: "{digest(HELLO)}" {OTHER_HASH}',
        ),
    ],
)  # fmt: skip
def test_an_invalid_manifest_is_reported_with_line_reason_and_remedy(
    file: Path, content: str | bytes, says: str
) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(file) == [says]


def test_all_problems_of_a_manifest_are_reported_together(file: Path) -> None:
    file.write_text(json.dumps({"Hello": HELLO, digest(ME): ME, "Me": None}, indent=1))
    assert refused(file) == [
        f'manifest.json:2: "Hello" {OTHER_HASH}',
        f'manifest.json:4: "Me" is not a text. {EXPECTED_FORMAT}',
    ]


def test_the_number_and_total_size_of_documents_are_limited(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (files.MAX_DOCUMENTS, files.MAX_BYTES) == (2_000, 16 * 1024 * 1024)
    (folder / "hello.graphql").write_text(HELLO)
    (folder / "me.graphql").write_text(ME)
    file.write_text(format_manifest(read_documents(folder)))
    for path, size in ((folder, len(HELLO + ME)), (file, file.stat().st_size)):
        for documents, size_bytes, fits in ((2, size, True), (1, size, False), (2, size - 1, False)):
            monkeypatch.setattr(files, "MAX_DOCUMENTS", documents)
            monkeypatch.setattr(files, "MAX_BYTES", size_bytes)
            if fits:
                assert len(read_documents(path)) == 2
            else:
                bounds = f"more than {documents} documents or {size_bytes} bytes"
                assert refused(path) == [f"{path.name}: It has {bounds}. Keep the ones in use."]


CORRECT_SYNTAX = "Correct the document's syntax."
CHANGE = "Change the document to what schema.graphql and the limits allow."


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, f"Syntax Error: Unexpected <EOF>. {CORRECT_SYNTAX}"),
        ("query Hello {\n  hello\n", 3, f"Syntax Error: Expected Name, found <EOF>. {CORRECT_SYNTAX}"),
        ("query Hello {\n  helo\n}", 2, f"Cannot query field 'helo' on type 'Query'. Did you mean 'hello'? {CHANGE}"),
        ("{ __schema { queryType { name } } }", 1, None),
        ("{ " + "toy(name: 1) { " * MAX_DEPTH, 1, None),
    ],
)
def test_an_invalid_document_is_reported_with_its_line(file: Path, text: str, line: int, says: str | None) -> None:
    in_a_file, in_a_manifest = PersistedDocument(text, "old.graphql"), PersistedDocument(text, "manifest.json", 7)
    [first, *_], [second, *_] = problems(in_a_file), problems(in_a_manifest)
    assert (first.location, second.location) == (f"old.graphql:{line}", f"manifest.json:7 (line {line} of the text)")
    assert first.message == second.message
    assert first.message.endswith((CORRECT_SYNTAX, CHANGE))
    assert says is None or first.message == says


def test_a_document_without_an_operation_is_reported() -> None:
    [problem, *_] = problems(PersistedDocument("fragment F on Toy { name }", "f.graphql"))
    assert str(problem).startswith("f.graphql:1: ")


def test_several_documents_may_have_an_operation_of_the_same_name() -> None:
    texts = ("query Hello { hello }", 'query Hello { hello(name: "newer") }', "query Hello { hello }")
    assert problems(*(PersistedDocument(text, f"{number}.graphql") for number, text in enumerate(texts))) == []
