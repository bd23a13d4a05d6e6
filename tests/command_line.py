"""Runs `python -m app` in this process or as a process, and servers for tests."""

import asyncio
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import Context
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from click.testing import CliRunner
from tortoise import context as tortoise_context

from app.__main__ import cli
from app.settings import Settings, get_settings
from tests.databases import clear_id_caches

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "app")
SETTINGS = {name.upper() for name in Settings.model_fields}


def environment(**settings: str) -> dict[str, str]:
    """The environment of this process, with no settings but the given ones."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | settings


def run_command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` with `arguments` in this process, with no settings but the given ones.

    Saves the seconds that a process takes to start. Restores what a command changes in the process: environment,
    cached settings, the open database, logging.
    """
    variables, handlers, level = dict(os.environ), logging.root.handlers[:], logging.root.level
    global_context, tortoise_context._global_context = tortoise_context._global_context, None
    _replace_environment(environment(**settings))
    try:
        result = Context().run(CliRunner().invoke, cli, arguments, prog_name="python -m app")
    finally:
        _replace_environment(variables)
        tortoise_context._global_context = global_context
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    stderr = result.stderr
    if result.exc_info is not None and not isinstance(result.exception, SystemExit | None):
        stderr += "".join(traceback.format_exception(*result.exc_info))
    return subprocess.CompletedProcess([*COMMAND, *arguments], result.exit_code, result.stdout, stderr)


async def run_beside(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """As `run_command`, in another thread, because a command runs its own event loop."""
    return await asyncio.to_thread(run_command, *arguments, **settings)


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    get_settings.cache_clear()
    clear_id_caches()


def run_process(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` with `arguments` as a process, with no settings but the given ones."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def url_for_role(url: str, role: str, password: str | None = None) -> str:
    """The URL of the same database for another role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}{':' + password if password else ''}@{host}"))


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A new directory that every user may read; removed afterwards, with the PostgreSQL clusters linked from it."""
    directory = Path(tempfile.mkdtemp(prefix="credits-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        for link in directory.rglob("cluster"):
            if link.is_symlink():
                shutil.rmtree(link.resolve().parent)
        shutil.rmtree(directory)


@contextmanager
def running_server(**settings: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A server with these settings, stopped afterwards: its URL, and the tokens that it printed, by kind."""
    with started_server(None, **settings) as (_, url, tokens):
        yield url, tokens


@contextmanager
def started_server(log: Path | None, **settings: str) -> Iterator[tuple[int, str, Mapping[str, str]]]:
    """As `running_server`, with the id of its process. `log`: the file for its stderr."""
    server = ServerProcess(settings, log=log)
    try:
        yield server.process.pid, server.url, server.tokens
    finally:
        assert server.end() == 0


class ServerProcess:
    """`python -m app serve` as a process, which has printed its URL."""

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        log: Path | None = None,
        new_session: bool = False,
        checkout: Path = REPOSITORY,
    ) -> None:
        """`log`: the file for its stderr. `new_session`: it gets a process group of its own. `checkout`: its code."""
        with log.open("ab") if log is not None else nullcontext() as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "serve"],
                cwd=checkout,
                env=environment(**settings),
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=new_session,
                text=True,
            )
        self.output = ""
        """What it printed until it was ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith("  curl "):
                break
        found = re.search(r"^Serving on (\S+) ", self.output, re.MULTILINE)
        self.tokens: Mapping[str, str] = dict(
            re.findall(r"^  (user|service|operator) \S+\n  (\S+)$", self.output, re.MULTILINE)
        )
        """The tokens that it printed, by kind of caller."""
        if found is None or set(self.tokens) != {"user", "service", "operator"}:
            self.end()
            raise AssertionError(f"the server did not start: {self.output}")
        self.url = found[1]

    def end(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> int:
        """Send a signal to the server or, as Ctrl-C in a terminal does, to its process group. Returns: exit status."""
        if self.process.poll() is None:
            (os.killpg if group else os.kill)(self.process.pid, number)
        status = self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status
