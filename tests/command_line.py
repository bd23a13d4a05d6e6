"""Running `python -m app` as somebody runs it, and a place for what it keeps."""

import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from click.testing import CliRunner
from tortoise import context as tortoise_context

from app.__main__ import cli
from app.ledger import accounts
from app.settings import Settings, get_settings
from app.tasks import task_accounts

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "app")
SETTINGS = {name.upper() for name in Settings.model_fields}


def environment(**chosen: str) -> dict[str, str]:
    """This process's environment, with no settings but `chosen`."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | chosen


def run_command(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """Run the command `arguments` in this process, with no settings but `chosen`.

    It behaves as `run_process` but for the second or two that a process takes to start. State of the process that a
    command sets (environment, cached settings, the open database, logging) is as before afterwards.
    """
    variables, handlers, level = dict(os.environ), logging.root.handlers[:], logging.root.level
    global_context, tortoise_context._global_context = tortoise_context._global_context, None
    _replace_environment(environment(**chosen))
    try:
        ended = Context().run(CliRunner().invoke, cli, arguments, prog_name="python -m app")
    finally:
        _replace_environment(variables)
        tortoise_context._global_context = global_context
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    stderr = ended.stderr
    if ended.exc_info is not None and not isinstance(ended.exception, SystemExit | None):
        stderr += "".join(traceback.format_exception(*ended.exc_info))
    return subprocess.CompletedProcess([*COMMAND, *arguments], ended.exit_code, ended.stdout, stderr)


async def run_beside(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """As `run`, in another thread, because a command has an event loop of its own."""
    return await asyncio.to_thread(run_command, *arguments, **chosen)


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    get_settings.cache_clear()
    accounts.clear_cache()
    task_accounts.clear_cache()


def run_process(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` with `arguments` as a process, with no settings but `chosen`, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env=environment(**chosen),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def url_for_role(url: str, role: str, password: str | None = None) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}{':' + password if password else ''}@{place}"))


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A new directory into which every user may look, and nothing of it afterwards."""
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
def running_server(**chosen: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A server with these settings, ended cleanly afterwards: its address, and the tokens it printed, by kind."""
    with started_server(None, **chosen) as (_, url, tokens):
        yield url, tokens


@contextmanager
def started_server(log: Path | None, **chosen: str) -> Iterator[tuple[int, str, Mapping[str, str]]]:
    """As `serving`, with the id of its process. `log`: where what it writes to stderr is kept."""
    kept = log.open("wb") if log is not None else None
    process = subprocess.Popen(
        [*COMMAND, "serve"], cwd=REPOSITORY, env=environment(**chosen), stdout=subprocess.PIPE, stderr=kept, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("  curl "):
                break
        found = re.search(r"^Serving on (\S+) ", said)
        tokens = dict(re.findall(r"^  (user|service|operator) \S+\n  (\S+)$", said, re.MULTILINE))
        assert found is not None, said
        assert set(tokens) == {"user", "service", "operator"}, said
        yield process.pid, found[1], tokens
    finally:
        if kept is not None:
            kept.close()
        process.terminate()
        assert process.wait(timeout=30) == 0
        if process.stdout is not None:
            process.stdout.close()
