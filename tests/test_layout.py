"""Layout rules that a machine can check: import contracts, cycles, sizes and names of modules, explained exceptions."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = sorted((CHECKOUT / "app").rglob("*.py"))
ALL_MODULES = [path for top in ("app", "bench", "examples", "tests") for path in sorted((CHECKOUT / top).rglob("*.py"))]

MAX_MODULE_LINES = 400
MAX_MODULES_PER_FOLDER = 15
VAGUE_NAMES = {
    "utils", "util", "helpers", "helper", "common", "core", "misc", "service", "services", "manager", "managers",
}  # fmt: skip
SILENCED = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma)(?P<rest>.*)")
WITH_REASON = re.compile(r"(?:: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)*|\[[a-z-]+(?:, [a-z-]+)*\]) +\S.*\w+ +\w+")


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


# Imports


def test_the_import_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    linted = subprocess.run(
        [*command, "--no-cache", "--no-logo"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )

    assert linted.returncode == 0, linted.stdout


def test_no_modules_import_each_other_in_a_cycle() -> None:
    names = {module_of(path) for path in MODULES}
    graph = {module_of(path): set(imports(path.read_text(), names)) - {module_of(path)} for path in MODULES}

    assert cycles(graph) == []


def imports(source: str, modules: set[str]) -> Iterator[str]:
    """The modules of `modules` that a source imports, also for annotations only (TYPE_CHECKING) or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, sorted (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return sorted(found)


def test_a_cycle_is_found_however_it_is_imported() -> None:
    modules = {"app.a", "app.b", "app.c", "app.d"}
    graph = {
        "app.a": set(imports("if TYPE_CHECKING:\n    from app.b import B", modules)),
        "app.b": set(imports("def f():\n    from app import c", modules | {"app"})),
        "app.c": set(imports("import app.a", modules)),
        "app.d": set(imports("from app import a", modules | {"app"})),
    }

    assert cycles(graph) == [["app.a", "app.b", "app.c"]]


# Modules


def test_modules_are_short_and_named_for_what_they_contain() -> None:
    assert [name_of(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_MODULE_LINES] == []
    assert [name_of(path) for path in MODULES if {path.stem, path.parent.name} & VAGUE_NAMES] == []


def test_a_folder_has_about_a_dozen_modules_at_most() -> None:
    count = Counter(path.parent for path in MODULES if path.name != "__init__.py")

    assert {name_of(folder): modules for folder, modules in count.items() if modules > MAX_MODULES_PER_FOLDER} == {}


def test_an_init_module_holds_only_its_docstring() -> None:
    assert [name_of(path) for path in MODULES if path.name == "__init__.py" and not is_docstring_only(path)] == []


def is_docstring_only(path: Path) -> bool:
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


# Exceptions from linter and type checker


def test_each_silenced_check_is_named_and_explained() -> None:
    assert [f"{name_of(path)}:{line}" for path in ALL_MODULES for line in unexplained(path.read_text())] == []


def unexplained(source: str) -> Iterator[int]:
    """Lines that silence a check without naming it and giving the reason."""
    for number, line in enumerate(source.splitlines(), start=1):
        if (found := SILENCED.search(line)) and not WITH_REASON.match(found["rest"]):
            yield number


def test_an_unexplained_exception_is_found() -> None:
    silencing = "# no" + "qa"
    assert list(unexplained(f"a = 1  {silencing}\nb = 2  {silencing}: S608")) == [1, 2]
    assert list(unexplained(f"a = 1  {silencing}: S608 - a constant, no input")) == []
