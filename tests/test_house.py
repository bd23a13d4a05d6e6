"""The rules of the house that a machine can check: storeys, sizes, names, silenced checks."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = sorted((CHECKOUT / "app").rglob("*.py"))
OURS = [*MODULES, *sorted((CHECKOUT / "tests").rglob("*.py")), *sorted((CHECKOUT / "bench").rglob("*.py"))]

LONGEST_MODULE_LINES = 350
DRAWERS = {"utils", "util", "helpers", "helper", "common", "core", "misc", "service", "services", "manager", "managers"}
SILENCED = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma)(?P<rest>.*)")
WITH_REASON = re.compile(r"(?:: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)*|\[[a-z-]+(?:, [a-z-]+)*\]) +\S.*\w+ +\w+")


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def unexplained(source: str) -> Iterator[int]:
    """Lines that silence a check without naming it and saying why."""
    for number, line in enumerate(source.splitlines(), start=1):
        if (found := SILENCED.search(line)) and not WITH_REASON.match(found["rest"]):
            yield number


def test_imports_go_down_the_storeys() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    told = subprocess.run(
        [*command, "--no-cache", "--no-logo"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert told.returncode == 0, told.stdout


def test_modules_are_short_and_named_for_what_they_do() -> None:
    assert [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > LONGEST_MODULE_LINES] == []
    assert [name_of(path) for path in MODULES if {path.stem, path.parent.name} & DRAWERS] == []


def test_each_silenced_check_is_named_and_explained() -> None:
    assert [f"{name_of(path)}:{line}" for path in OURS for line in unexplained(path.read_text())] == []


def test_an_init_module_holds_only_its_docstring() -> None:
    assert [name_of(path) for path in MODULES if path.name == "__init__.py" and not is_docstring(path)] == []


def is_docstring(path: Path) -> bool:
    match ast.parse(path.read_text()).body:
        case [ast.Expr(value=ast.Constant())]:
            return True
    return False


def test_rules_never_wait() -> None:
    waiting = ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith
    rules = [path for path in MODULES if path.name == "rules.py" or path.parent.name == "rules"]

    assert rules != []
    assert [
        f"{name_of(path)}:{node.lineno}"
        for path in rules
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, waiting)
    ] == []


def test_this_check_sees_what_it_is_meant_to_see() -> None:
    silencing = "# no" + "qa"
    assert list(unexplained(f"a = 1  {silencing}\nb = 2  {silencing}: S608")) == [1, 2]
    assert list(unexplained(f"a = 1  {silencing}: S608 - a constant, no input")) == []
