"""The suite in several processes, each with a PostgreSQL of its own: what stays together, and what is told at the end.

`make test` runs it so (pytest-xdist); `-n0` runs it in one. A process that only runs tests has nowhere to print to.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any, Final

import pytest

TOGETHER: Final = frozenset({"stories", "hostile", "simulation"})
"""Folders whose tests share a server."""

_TOLD: Final = pytest.StashKey[list[str]]()

Tell = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TOLD] = []


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Tell:
    """Says something when all tests have run, whichever process ran this one: figures, not faults."""
    return request.config.stash[_TOLD].append


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A file's tests share its fixtures, so one process runs them."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(PurePath(item.nodeid.partition("::")[0]))))


def _group(path: PurePath) -> str:
    return next((folder for folder in path.parts[:-1] if folder in TOGETHER), str(path))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process that only runs tests: hand over what they told."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["told"] = session.config.stash[_TOLD]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the process that gathers: take what such a process hands over."""
    node.config.stash[_TOLD] += getattr(node, "workeroutput", {}).get("told", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for text in config.stash[_TOLD]:
        terminalreporter.write_line(text)
