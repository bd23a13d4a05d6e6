"""The codes of top-level errors: the documentation lists every code, and no other."""

import re

from app.engine.errors import ErrorCode
from app.errors import RequestError
from tests.command_line import REPOSITORY


def codes() -> set[str]:
    """The codes of the engine, and those of request errors."""
    kinds = [RequestError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code for kind in kinds} | {code.value for code in ErrorCode}


def test_the_documentation_lists_every_code_and_no_other() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    [page] = [text for path in pages if "\n| `BAD_USER_INPUT` |" in (text := path.read_text(encoding="utf-8"))]
    section = re.split(r"\n##+ ", page.partition("\n| `BAD_USER_INPUT` |")[0])[-1]
    table = page[page.index(section) :]
    rows = [row for row in re.split(r"\n##+ ", table)[0].splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`([A-Z_]+)`", " ".join(row.split("|")[1] for row in rows))) == codes()
