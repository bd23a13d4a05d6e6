"""Where a run of the bench keeps its data, and how it shows its progress and is stopped."""

import json
import os
import platform
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.connection import override_settings
from app.db import embedded_postgres
from app.db.embedded_postgres import EmbeddedPostgres
from app.settings import data_directory, get_settings
from bench import client


@contextmanager
def own_place() -> Iterator[Path]:
    """A new directory on the disk where this installation keeps its data (a memory file system would flatter fsync),
    with development's keys in it: the settings of this process and of those it starts say so from here on."""
    home = data_directory(get_settings())
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=home, ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        place.chmod(0o755)
        override_settings(data_dir=str(place), environment="development", jwks_url="")
        yield place


@contextmanager
def postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of one's own, whose data goes with it."""
    try:
        with embedded_postgres.start(directory) as server:
            yield server
    finally:
        cluster = directory / "cluster"
        if cluster.is_symlink():  # for root it lies elsewhere, in a directory of its own: app.db.postgres_programs
            shutil.rmtree(cluster.resolve().parent, ignore_errors=True)


def progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def wide() -> Console:
    """Where tables go: wide, whatever the terminal, for a row that is broken in two is no row of a table."""
    return Console(width=220)


def leave_when_told() -> None:
    """SIGTERM ends this process through every `with`, so that what was started is ended."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(143)


def allow_files(wanted: int) -> None:
    """Let this process and those it starts open so many files. Raises: ValueError: the system does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(f"{wanted:,} open files are needed and {hard:,} allowed: raise the limit (ulimit -Hn).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep(file: Path, found: Mapping[str, Any]) -> None:
    """Write all figures to this file, with what they depend on."""
    file.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "client": client.name(),
    }
