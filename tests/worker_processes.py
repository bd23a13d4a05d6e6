"""The suite in several worker processes (pytest-xdist), each with a PostgreSQL of its own.

Which tests stay together, in which order they run, and messages of workers, which cannot print.

`make test` runs it so; `-n 0` runs the suite in one process.
"""

import os
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.soak import mark_sized

SHARED_SERVER_FOLDERS: Final = frozenset({"stories", "hostile", "simulation"})
"""Folders whose tests share a server, so that one process runs them all."""

SINGLE_TESTS_FOLDER: Final = "faults"
"""A folder of few tests that wait most of the time: the next free process runs the next one."""

SLOW_FIRST: Final = ("stories", "state_machine", "test_serve", "test_provider_events_under_failures", "hostile")
"""Folders and modules of few tests that take long. They start first: started last, one process would run them alone."""

_MESSAGES: Final = pytest.StashKey[list[str]]()

Report = Callable[[str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MESSAGES] = []


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Adds a line to the summary of the run, whichever process runs the test: figures, not failures."""
    return request.config.stash[_MESSAGES].append


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # its package ships no types
    """One process runs the tests of a file, because they share fixtures, and those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePath(nodeid.partition("::")[0])
        if SINGLE_TESTS_FOLDER in path.parts:
            return nodeid
        return next((folder for folder in path.parts[:-1] if folder in SHARED_SERVER_FOLDERS), str(path))


def pytest_xdist_auto_num_workers() -> int:
    """One process more than processors: tests wait for servers, commits and clocks."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    config.option.loadscopereorder = False  # files in the order of collection
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort slow files first; otherwise the order stays."""
    mark_sized(items)
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    names = {*item.path.parts, item.path.stem}
    return next((place for place, name in enumerate(SLOW_FIRST) if name in names), len(SLOW_FIRST))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker: send its messages to the process that started it."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["messages"] = session.config.stash[_MESSAGES]


def pytest_testnodedown(node: Any) -> None:
    """In the process that started the workers: receive their messages."""
    node.config.stash[_MESSAGES] += getattr(node, "workeroutput", {}).pop("messages", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for text in config.stash[_MESSAGES]:
        terminalreporter.write_line(text)
