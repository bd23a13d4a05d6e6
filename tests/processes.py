"""The suite in several processes, each with a PostgreSQL of its own: what stays together, and what is told at the end.

`make test` runs it so (pytest-xdist); `-n0` runs it in one. A process that only runs tests has nowhere to print to.
"""

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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


class _Together(LoadScopeScheduling):  # type: ignore[misc]  # its package ships no types
    """A file's tests share its fixtures, so one process runs them; so do those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(nodeid.partition("::")[0])
        return next((folder for folder in path.parts[:-1] if folder in TOGETHER), str(path))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Together:
    return _Together(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process that only runs tests: hand over what they told."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["told"] = session.config.stash[_TOLD]


def pytest_testnodedown(node: Any) -> None:
    """In the process that gathers: take what such a process hands over."""
    node.config.stash[_TOLD] += getattr(node, "workeroutput", {}).pop("told", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for text in config.stash[_TOLD]:
        terminalreporter.write_line(text)
