"""The pages of the documentation, taken apart into fenced blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.command_line import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
"""Every page that is read by users, the generated ones included."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the fence opens."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in order, of these languages or of all."""
    return [
        block for block in _blocks(page.read_text(encoding="utf-8")) if not languages or block.language in languages
    ]


def _blocks(text: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], text[: match.start()].count("\n") + 1)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```(\w*)\n(.*?)^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
