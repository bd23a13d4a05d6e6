"""The codes of top-level errors: each is told in the README, and the README tells of no other."""

import re

from app.engine.errors import ErrorCode
from app.errors import RequestError
from tests.command_line import REPOSITORY


def codes() -> set[str]:
    """Those of the edge, and those of the refusals that become top-level errors."""
    kinds = [RequestError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code for kind in kinds} | {code.value for code in ErrorCode}


def test_the_readme_lists_every_code_and_no_other() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n### Errors\n")[2].partition("\n### ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`([A-Z_]+)`", " ".join(row.split("|")[1] for row in rows))) == codes()
