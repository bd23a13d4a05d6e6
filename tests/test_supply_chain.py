"""Dependencies, the linter's security rules, SQL injection, and secrets in the repository."""

import ast
import math
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.command_line import REPOSITORY

LOCK = (REPOSITORY / "requirements.lock").read_text()
PROJECT_TEXT = (REPOSITORY / "pyproject.toml").read_text()
RUFF: dict[str, Any] = tomllib.loads(PROJECT_TEXT)["tool"]["ruff"]["lint"]
MODULES = sorted((REPOSITORY / "app").rglob("*.py"))

FLOORS = {"strawberry-graphql": "0.323", "starlette": "1.3.1", "pyjwt": "2.13"}
"""The first releases without a known vulnerability."""

STATEMENT = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|FROM|WHERE|AND|OR|SET|VALUES|JOIN|WITH|ORDER BY|LIMIT|TRUNCATE|CREATE"
    r"|ALTER|DROP|NOTIFY|ARRAY)\b"
)
CONSTANT = re.compile(r"(\w+\.)*_*[A-Z][A-Z0-9_]*")
SENDING = {"fetch", "fetchrow", "fetchval", "execute", "execute_query", "execute_script", "executemany", "prepare"}
ALLOWED_PARTS = {
    "set_writes.py": {
        "', '.join(ctes)", "', '.join(counts)", "position", "found[1].replace('[]', '')", "found[2] or ' AS v'",
    },
    "tables.py": {
        "self.name", "', '.join(names)", "self._parameters(names)", "self._parameters(names, more)", "on_conflict",
        "assignments", "conditions", "' AND '.join(conditions)", "source",
        "', '.join([column.rsplit(' AS ', 1)[0] for column in columns])",
    },
    "account_events.py": {"events", "payload"},
    "costs.py": {"_select_groups('block')", "_select_groups('model')"},
    "erase_owner.py": {
        "', '.join((f'{name} = v.{name}' for name in ENTRY_COLUMNS))",
        "', '.join((f'${n}::text[]' for n in range(5, 10)))", "(f'{name} ~ $2' for name in columns)", "changes",
        "matches", "name", "sql_type", "table",
    },
    "pools.py": {"_milliseconds(lock_seconds)"},
    "rows.py": {"', '.join((f'{name} = EXCLUDED.{name}' for name in _OVERWRITTEN))"},
    "verifier.py": {"sql"},
    "posting.py": {
        "_with_budgets(_EXPIRED_HOLDS)", "_with_budgets(renumber_parameters(sql, offset))", "', '.join(selects)",
        "place", "renumber_parameters(sql, offset)", "seed",
    },
}  # fmt: skip
"""Modules that combine several of our statements into one, and what they write into it.

That is statements, numbers, and names of our tables and columns.
"""


def locked() -> dict[str, Version]:
    return {name: Version(version) for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+) ", LOCK, re.MULTILINE)}


@pytest.mark.parametrize("name", FLOORS)
def test_no_version_with_a_known_vulnerability_is_locked_or_allowed(name: str) -> None:
    assert locked()[name] >= Version(FLOORS[name])
    project = tomllib.loads(PROJECT_TEXT)["project"]
    [wanted] = [text for text in project["dependencies"] if re.match(rf"{name}\b", text)]
    floor = re.search(r">=([\d.]+)", wanted)
    assert floor is not None
    assert Version(floor[1]) >= Version(FLOORS[name])


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_only_packages_with_locked_hashes_are_installed(name: str) -> None:
    installs = re.findall(r"pip install.*", (REPOSITORY / name).read_text())
    locked = [line for line in installs if "pip-audit" not in line]  # installed into a separate environment
    assert locked != []
    assert [line for line in locked if "--require-hashes -r requirements.lock" not in line] == []


def test_the_security_rules_of_the_linter_are_on_and_each_exception_has_a_reason() -> None:
    assert "S" in RUFF["select"]
    table = PROJECT_TEXT.partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.mccabe]")[0]
    silenced = [code for codes in [RUFF["ignore"], *RUFF["per-file-ignores"].values()] for code in codes]
    security = [code for code in silenced if re.fullmatch(r"S\d+", code)]
    assert set(security) <= {"S101", "S105", "S106", "S603", "S608"}
    for path, codes in RUFF["per-file-ignores"].items():
        assert path == "tests/**" or not any(re.fullmatch(r"S\d+", code) for code in codes), path
    reasons = re.findall(r'"(S\d+)",(.*)', table)
    assert sorted(code for code, _ in reasons) == sorted(security)
    # S106 is listed below S105 and has the same reason.
    assert [code for code, reason in reasons if code != "S106" and not re.search(r"# \w+ \w+", reason)] == []


def test_one_command_audits_the_dependencies() -> None:
    make = shutil.which("make")
    assert make is not None
    listed = subprocess.run(
        [make, "-n", "audit-dependencies"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert re.search(r"pip-audit .*--require-hashes .*-r requirements\.lock", listed.stdout)


def test_each_promise_of_the_security_policy_names_existing_tests() -> None:
    promises = re.findall(r"^\| .* \| (`tests/.*) \|$", (REPOSITORY / "SECURITY.md").read_text(), re.MULTILINE)
    named = [path for promise in promises for path in re.findall(r"`([^`]+)`", promise)]
    assert len(promises) >= 10
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


# Statements


def outside_values(source: str) -> Iterator[str]:
    """Expressions other than constants that are written into SQL statements, as `line: expression`.

    A statement is a text with SQL keywords in capitals, unless it is part of a `raise`; ruff's S608 finds the others.
    A constant has a name in capitals; the linter's rules N803 and N806 forbid such names for parameters and variables.
    """
    tree = ast.parse(source)
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    ignored = {id(part) for node in (*raised, *functions_of_import_time(tree)) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Call) and name_of(node.func) in SENDING:
            for part in (part for sent in node.args[:1] for part in parts_of(sent) if not is_constant(part)):
                yield f"{node.lineno}: composed in the call that sends it: {ast.unparse(part)}"
        parts = parts_of(node)
        if any(isinstance(part, ast.Constant) and STATEMENT.search(str(part.value)) for part in parts):
            yield from (f"{part.lineno}: {ast.unparse(part)}" for part in parts if not is_constant(part))


def functions_of_import_time(tree: ast.Module) -> list[ast.FunctionDef]:
    """Private functions that are called only at the top level of the module: their arguments are our own texts."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("_")]
    at_run_time = {
        part.id
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for part in ast.walk(node)
        if isinstance(part, ast.Name)
    }
    called = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}
    return [function for function in functions if function.name in called - at_run_time]


def is_constant(node: ast.expr) -> bool:
    """Whether it is a literal or a name in capitals, or an attribute or a method of one, called with such."""
    match node:
        case ast.Constant():
            return True
        case ast.Name() | ast.Attribute() if CONSTANT.fullmatch(ast.unparse(node)):
            return True
        case ast.Attribute(value=value):
            return is_constant(value)
        case ast.Call(func=ast.Attribute(value=value), args=arguments, keywords=[]):
            return is_constant(value) and all(map(is_constant, arguments))
    return False


def name_of(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def parts_of(node: ast.AST) -> list[ast.expr]:
    """The parts of a composed text: an f-string, a sum, or a call of `%`, `format`, `replace` or `join`."""
    match node:
        case ast.JoinedStr(values=values):
            return [part.value if isinstance(part, ast.FormattedValue) else part for part in values]
        case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
            return [one for side in (left, right) for one in parts_of(side) or [side]]
        case ast.AugAssign(op=ast.Add(), value=value):
            return parts_of(value) or [value]
        case ast.Call(func=ast.Attribute(value=text, attr="format" | "format_map" | "replace" | "join")):
            return [text, *node.args, *(keyword.value for keyword in node.keywords)]
    return []


def test_statements_are_composed_of_constants_only() -> None:
    assert [
        f"{path.relative_to(REPOSITORY)}:{found}"
        for path in MODULES
        for found in outside_values(path.read_text())
        if found.partition(": ")[2] not in ALLOWED_PARTS.get(path.name, ())
    ] == []


@pytest.mark.parametrize(
    "unsafe",
    [
        'fetch(f"SELECT {name}")',
        'fetch(f"SELECT 1 FROM {_TABLE} WHERE id = {id}")',
        'fetch(f"SELECT {made(_NAME)}")',
        "fetch('SELECT %s' % name)",
        "fetch('SELECT {}'.format(name))",
        "fetch('SELECT {what}'.format(what=name))",
        "fetch('DELETE FROM x WHERE a = A'.replace('A', name))",
        "sql = 'SELECT 1 WHERE x = ' + name + ' LIMIT 1'",
        "sql += f' AND owner_id = {owner}'",
        "sql += ' ORDER BY ' + column",
        "fetch(f'{_FIND} {name}')",
        "self.connection.execute_query(_FIND + name, [])",
        "def f(table):\n return f'TRUNCATE {table}'",
        "def _f(table):\n return f'TRUNCATE {table}'\ndef g(name):\n return _f(name)",
        'fetch(f"SELECT {TABLE.columns(name)}")',
    ],
)
def test_a_value_in_a_statement_is_found(unsafe: str) -> None:
    assert list(outside_values(unsafe)) != []


@pytest.mark.parametrize(
    "safe",
    [
        'fetch("SELECT 1 WHERE x = $1", name)',
        '_ALL = f"SELECT {_COLUMNS} FROM {rows.TABLE}"',
        "sql = _SOME + ' LIMIT 1'",
        """sql = f"SELECT {TABLE.columns('t')} FROM t\"""",
        "def _f(table):\n return f'TRUNCATE {table}'\n_ONE = _f('one')",
        "raise Misconfigured(f'run CREATE ROLE {role}')",
        "log.info(f'selected {name} from where they were')",
    ],
)
def test_a_statement_of_constants_passes(safe: str) -> None:
    assert list(outside_values(safe)) == []


# Secrets

KEYS = re.compile(
    r"(?:sk|rk)_live_[0-9A-Za-z]{8,}|whsec_[0-9A-Za-z+/]{24,}|AKIA[0-9A-Z]{16}|ghp_[0-9A-Za-z]{30,}|xox[abp]-[0-9]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}|ck_[0-9a-f]{16}_[0-9a-f]{64}"
)
NAMED = re.compile(
    r"""(?i)(?P<name>\b\w*(?:secret|token|password|passwd|api_?key|private_?key|ledger_key)\w*)["']?\s*[:=]\s*
    ["']?(?P<value>[A-Za-z0-9+/=_-]{20,})""",
    re.VERBOSE,
)
ALLOWED = {"0123456789abcdefghijklmnopqrstuv": "the alphabet, as a test's shared secret"}
"""Texts that look like a secret, and why they are none."""


def tracked() -> list[Path]:
    git = shutil.which("git")
    assert git is not None
    listed = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def secrets_in(text: str) -> Iterator[str]:
    """Keys of known formats, and random-looking values assigned to a name such as `token` or `password`."""
    yield from (found[0] for found in KEYS.finditer(text) if found[0] not in ALLOWED)
    for found in NAMED.finditer(text):
        value = found["value"]
        if value not in ALLOWED and looks_random(value):
            yield f"{found['name']}={value}"


def looks_random(value: str) -> bool:
    """Whether it could be a key: letters and digits with more than 3.3 bits of entropy per character."""
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits > 3.3 and any(char.isdigit() for char in value) and "_" not in value.strip("_")


def test_no_secret_is_in_the_repository() -> None:
    hashes_of_releases = REPOSITORY / "requirements.lock"
    texts = {path: path.read_text(errors="replace") for path in tracked() if path != hashes_of_releases}
    found = {str(path.relative_to(REPOSITORY)): list(secrets_in(text)) for path, text in texts.items()}
    assert {path: secrets for path, secrets in found.items() if secrets} == {}


def test_the_scan_finds_secrets_of_each_kind() -> None:
    random_hex = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    for secret in (
        "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        "rk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        f'LEDGER_KEY="{random_hex}"',
        f"password: {random_hex}",
        f'"api_key": "{random_hex}"',
        "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    ):
        assert list(secrets_in(secret)) != [], secret
    for harmless in ("sk_test_…", "LEDGER_KEY=${LEDGER_KEY:?make one}", 'token = "abcabcabcabcabcabcabcabc"'):
        assert list(secrets_in(harmless)) == [], harmless
