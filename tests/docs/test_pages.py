"""The documentation agrees with the code, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from app.api.schema import build_schema
from app.cli import reference
from app.cli.checklist.runner import CHECKS
from app.engine.errors import ErrorCode
from app.errors import RequestError
from tests.command_line import REPOSITORY
from tests.docs.pages import PAGES, prose

DOCS = REPOSITORY / "docs"
GENERATED_PAGES = ("configuration.md", "api-reference.md", "webhook-events.md")


def test_the_reference_pages_are_up_to_date() -> None:
    found = {name: (DOCS / name).read_text(encoding="utf-8") for name in GENERATED_PAGES}
    assert found["configuration.md"] == reference.settings_page(), "run `make docs`"
    assert found["webhook-events.md"] == reference.events_page(), "run `make docs`"
    assert found["api-reference.md"] == reference.api_page(build_schema()._schema), "run `make docs`"


def test_every_error_code_is_documented_and_no_other() -> None:
    kinds = [RequestError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {kind.code for kind in kinds} | {code.value for code in ErrorCode}

    section = (DOCS / "api.md").read_text(encoding="utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE)) == codes


def test_the_production_page_lists_the_checks_in_their_order() -> None:
    section = (DOCS / "production.md").read_text(encoding="utf-8").partition("\n## Checks\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE) == [check.name for check in CHECKS]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\(docs/([a-z-]+\.md)\)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in DOCS.glob("*.md")}
