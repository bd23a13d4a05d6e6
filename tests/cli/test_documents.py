"""The command documents: output and exit status. The server refuses to start with the same documents."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.command_line import run_command, run_process

BALANCE = "query Balance {\n  account {\n    balance { available }\n  }\n}\n"
FOLLOW = "subscription Follow {\r\n  balance { available version }\r\n}\r\n"
OLD = "query Old {\n  account {\n    balanse\n  }\n}\n"
CHANGE = "Change the document to what schema.graphql and the limits allow."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two valid documents."""
    (tmp_path / "balance.graphql").write_bytes(BALANCE.encode())
    (tmp_path / "follow.graphql").write_bytes(FOLLOW.encode())
    return tmp_path


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_valid_documents_are_counted(folder: Path) -> None:
    message = f"{folder}: 2 documents are valid\n"
    assert outcome(run_command("documents", "check", str(folder))) == (0, message, "")
    assert outcome(run_command("documents", "check", KNOWN_DOCUMENTS=str(folder))) == (0, message, "")


def test_every_problem_is_printed_with_its_location_and_the_status_is_1(folder: Path) -> None:
    (folder / "old.graphql").write_text(OLD)
    (folder / "open.graphql").write_text("query Open {\n  account {\n")
    (folder / "schema.graphql").write_text("{ __schema { queryType { name } } }")
    problems = (
        f"{folder}/old.graphql:3: Cannot query field 'balanse' on type 'Account'. Did you mean 'balance'? {CHANGE}\n"
        f"{folder}/open.graphql:3: Syntax Error: Expected Name, found <EOF>. Correct the document's syntax.\n"
        f"{folder}/schema.graphql:1: GraphQL introspection has been disabled, but the requested query contained the "
        f"field '__schema'. {CHANGE}\n"
        f"{folder}/schema.graphql:1: GraphQL introspection has been disabled, but the requested query contained the "
        f"field 'queryType'. {CHANGE}\n"
    )
    for command in ("check", "manifest"):
        done = run_command("documents", command, str(folder))
        assert outcome(done) == (1, "", problems + "Problems: 4. The server would not start.\n")


@pytest.mark.parametrize("command", ["check", "manifest"])
def test_unreadable_files_are_reported_in_the_same_way(command: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    problems = (
        f"{tmp_path}/manifest.json:1: It is in neither format. "
        'Write {"<sha256>": "<text>", ...}, or an apollo-persisted-query-manifest of version 1.\n'
    )
    done = run_command("documents", command, str(tmp_path / "manifest.json"))
    assert outcome(done) == (1, "", problems + "Problems: 1. The server would not start.\n")


def test_without_a_path_the_setting_is_named() -> None:
    message = "Error: KNOWN_DOCUMENTS is not set: name the directory or manifest to check.\n"
    assert outcome(run_command("documents", "check")) == (1, "", message)


def test_a_manifest_names_each_document_by_the_hash_of_its_bytes(folder: Path) -> None:
    written = run_command("documents", "manifest", str(folder))
    assert (written.returncode, written.stderr) == (0, "")
    assert json.loads(written.stdout) == {
        sha256(file.read_bytes()).hexdigest(): file.read_bytes().decode() for file in folder.iterdir()
    }
    manifest = folder / "manifest.json"
    manifest.write_text(written.stdout)
    assert run_command("documents", "check", str(manifest)).stdout == f"{manifest}: 2 documents are valid\n"
    assert run_command("documents", "manifest", str(manifest)).stdout == written.stdout


def test_the_documents_of_two_releases_are_merged(tmp_path: Path) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    texts = {older: (BALANCE, FOLLOW), newer: (BALANCE.replace("available", "posted"), FOLLOW)}
    for release, held in texts.items():
        release.mkdir()
        for number, text in enumerate(held):
            (release / f"{number}.graphql").write_bytes(text.encode())
    written = run_command("documents", "manifest", str(older), str(newer))
    assert (written.returncode, written.stderr) == (0, "")
    assert sorted(json.loads(written.stdout).values()) == sorted({*texts[older], *texts[newer]})

    refused = run_command("documents", "manifest", str(older), str(tmp_path / "gone"))
    message = f"{tmp_path}/gone: There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it.\n"
    assert outcome(refused) == (1, "", message + "Problems: 1. The server would not start.\n")


@pytest.mark.parametrize(("workers", "status"), [("1", 1), ("2", 3)])
def test_a_server_with_invalid_documents_refuses_to_start_with_the_problem(
    workers: str, status: int, folder: Path, database_url: str
) -> None:
    old = folder / "old.graphql"
    old.write_text(OLD)
    settings = {"DATABASE_URL": database_url, "DATA_DIR": str(folder / "data"), "PORT": "0"}
    done = run_process("serve", **settings, WORKERS=workers, KNOWN_DOCUMENTS=str(folder))
    assert done.returncode == status
    assert f"{old}:3: Cannot query field 'balanse' on type 'Account'." in done.stderr
    assert "Traceback" not in done.stderr
