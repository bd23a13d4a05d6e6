"""Every command and snippet of the documentation is executed.

The `bash` blocks of a page run as one shell script against a server that was started as in "Getting started". Each page
has an owner and task ids of its own. A `json` block after a `bash` block is the last answer of that block; a `text`
block lists lines that it prints. The `js` blocks are run by `make clients`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import click
import pytest
from graphql import parse, validate

from app.__main__ import cli
from app.api.schema import build_schema
from app.auth.development_keys import user_token
from app.db import embedded_postgres, postgres_programs
from app.pricing.rate_card_document import parse_rate_card
from app.settings import Settings
from tests.command_line import REPOSITORY, environment, running_server, temporary_directory
from tests.docs.pages import PAGES, blocks

SCHEMA = build_schema()._schema
SETUP = REPOSITORY / "docs/getting-started.md"
SEPARATOR = "---- block "
BASH = shutil.which("bash") or "bash"
SCRIPTS = [page for page in PAGES if blocks(page, "bash")]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a running server with its own PostgreSQL, and the environment of the commands that reach it."""
    with temporary_directory() as directory:
        settings = {"DATA_DIR": str(directory)}
        with running_server(**settings, PORT="0") as (url, tokens):
            owner_url = embedded_postgres.running_url(directory / "postgres")
            variables = {
                "PYTHONPATH": str(REPOSITORY), "SERVICE": tokens["service"], "OPERATOR": tokens["operator"],
                "MIGRATION_DATABASE_URL": str(owner_url),
                "PATH": f"{postgres_programs.bin_dir()}{os.pathsep}{os.environ['PATH']}",
            }  # fmt: skip
            yield url, environment(**settings) | variables


def setup_of(page: Path, data_dir: str) -> str:
    """What `ask` and the tokens are on pages that refer to "Getting started"; a token of its own user for each page.

    The commands that print the tokens run on their own page: elsewhere their results are put in, which saves a second
    for each.
    """
    if page.stem in ("README", SETUP.stem):
        return ""
    token = user_token(own_names("alice", page), settings=Settings(data_dir=Path(data_dir)))
    [lines] = [block.text for block in blocks(SETUP, "bash")[:1]]
    return f"USER={token}\n" + re.sub(r"^(USER|SERVICE|OPERATOR)=.*\n", "", lines, flags=re.MULTILINE)


def own_names(script: str, page: Path) -> str:
    """The script with owners and tasks that no other page uses."""
    return re.sub(r"\b(alice|carol|first-task|task-\d)\b", rf"\1-{page.stem.lower()}", script)


@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_as_written(
    page: Path, server: tuple[str, Mapping[str, str]], tmp_path: Path
) -> None:
    url, variables = server
    shown = blocks(page)
    commands = [block for block in shown if block.language == "bash"]
    script = "".join(f"echo '{SEPARATOR}'\n{own_names(block.text, page)}" for block in commands)
    script = f"set -euo pipefail\n{setup_of(page, variables['DATA_DIR'])}{script}"

    ended = subprocess.run(
        [BASH, "-c", script.replace("http://localhost:8000", url).replace(".venv/bin/python", sys.executable)],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    printed = dict(zip(commands, ended.stdout.split(f"{SEPARATOR}\n")[1:], strict=True))
    assert [line for line in ended.stdout.splitlines() if line.startswith('{"errors"') or '"errors":[' in line] == []
    refusals = set(re.findall(r'"__typename":"(\w+Error)"', ended.stdout))
    assert {name for name in refusals if name not in page.read_text(encoding="utf-8")} == set(), ended.stdout
    for before, block in pairwise(shown):
        if before.language == "bash" and block.language == "json":
            assert json.loads(printed[before].splitlines()[-1]) == json.loads(block.text), block.line
        if before.language == "bash" and block.language == "text":
            assert [line for line in block.text.splitlines() if line not in printed[before]] == [], printed[before]


def test_every_graphql_document_of_the_documentation_is_valid() -> None:
    documents = [(page, block) for page in PAGES for block in blocks(page, "graphql")]
    assert documents
    wrong = {f"{page.name}:{block.line}": validate(SCHEMA, parse(block.text)) for page, block in documents}
    assert {place: [error.message for error in errors] for place, errors in wrong.items() if errors} == {}


def test_every_json_block_of_the_documentation_is_valid() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            json.loads(block.text)


def test_the_rate_card_in_the_documentation_can_be_published() -> None:
    [card, *_] = blocks(REPOSITORY / "docs/prices.md", "json")
    parse_rate_card(json.loads(card.text), version=1, effective_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_every_command_that_the_documentation_names_exists() -> None:
    unknown = []
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        for words in re.findall(r"python -m app ((?:[a-z][a-z-]*[ `.]?)+)", text):
            if not is_command(words.strip(" `.").split()):
                unknown += [f"{page.name}: python -m app {words}"]
        unknown += [
            f"{page.name}: make {name}" for name in re.findall(r"`make ([a-z-]+)`", text) if name not in targets
        ]
    assert unknown == []


def is_command(words: list[str]) -> bool:
    """Whether the first of these words name a command of `python -m app`; those after it are its arguments."""
    command: click.Command | None = cli
    for word in words:
        if not isinstance(command, click.Group):
            return True
        command = command.commands.get(word)
        if command is None:
            return False
    return command is not cli
