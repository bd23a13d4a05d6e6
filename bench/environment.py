"""The environment of a benchmark: its data directory, PostgreSQL and servers, and the CPU time that they use."""

import contextlib
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import httpx
import psutil

from app.cli.connection import override_settings
from app.db import embedded_postgres
from app.db.embedded_postgres import EmbeddedPostgres
from app.settings import data_directory, get_settings

STARTED_AT: Final = time.monotonic()
REPOSITORY: Final = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS: Final = 60
STOP_TIMEOUT_SECONDS: Final = 20


class BenchmarkFailed(Exception):
    """A server, a client or a command did not work, or a result cannot be used; the message says why."""


def progress(text: str) -> None:
    click.echo(f"{time.monotonic() - STARTED_AT:5.0f} s  {text}", err=True)


@contextmanager
def benchmark_directory() -> Iterator[Path]:
    """A temporary DATA_DIR for this process and those it starts.

    It is inside the DATA_DIR of this installation, because /tmp may be in memory, where fsync is cheap.
    """
    parent = data_directory(get_settings())
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        override_settings(data_dir=str(directory), environment="development", jwks_url="")
        yield directory


@contextmanager
def temporary_postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL whose data is removed afterwards."""
    try:
        with embedded_postgres.start(directory) as server:
            yield server
    finally:
        cluster = directory / "cluster"
        if cluster.is_symlink():  # if root has started it, the cluster is in a directory of another user
            shutil.rmtree(cluster.resolve().parent, ignore_errors=True)


def exit_on_sigterm() -> None:
    """Make SIGTERM leave every `with` block, so that started servers are stopped."""

    def leave(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


def allow_open_files(count: int) -> None:
    """Raise the limit of open files for this process and those it starts.

    Raises: BenchmarkFailed: the limit is fixed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchmarkFailed(f"{count:,} open files are needed and {hard:,} allowed: raise the limit (ulimit -Hn).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "client": "wrk" if shutil.which("wrk") else "bench.http_client",
    }


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_server(name: str, *module: str, directory: Path, **environment: str) -> Iterator[Server]:
    """Start `python -m MODULE` with its arguments, and wait until it responds. Its output goes to `directory`/NAME.log.

    Raises: BenchmarkFailed: it did not start.
    """
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=REPOSITORY,
            env=dict(os.environ) | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(process.pid, _wait_for_port(name, process, log))
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(name: str, process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"^Serving on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace"), re.MULTILINE):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{found[1]}/", timeout=5)
                return int(found[1])
        time.sleep(0.05)
    raise BenchmarkFailed(f"{name} did not start. It printed:\n{log.read_text(errors='replace')[-4000:]}")


def server_settings(url: str, **more: str) -> dict[str, str]:
    """The environment of a server on the database `url`. No rate limit: all requests come from one caller."""
    unlimited = dict.fromkeys(("RATE_PER_SERVICE", "RATE_PER_USER", "RATE_PER_ADDRESS"), "0")
    return {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": "0", "WORKERS": "1", **unlimited, **more}


def run_module(*module: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE` with its arguments. `text`: what it reads from stdin."""
    return subprocess.run(
        [sys.executable, "-m", *module],
        cwd=REPOSITORY,
        env=dict(os.environ) | environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def verify_ledger(url: str) -> tuple[bool, str]:
    """Return whether the ledger passes `python -m app verify`, and what the command printed."""
    done = run_module("app", "verify", **server_settings(url))
    return done.returncode == 0, (done.stdout.strip() or done.stderr.strip())[-2000:]


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes and their descendants, ended ones included."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            total += sum(map(_used_seconds, (parent, *parent.children(recursive=True))))
    return total


def _used_seconds(process: psutil.Process) -> float:
    """CPU time of one process and its ended children.

    `cpu_times` counts in hundredths of a second, which is too coarse for a few requests. So the time of the process
    itself is read in a finer unit if the kernel reports it.
    """
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    precise = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            precise += int((thread / "schedstat").read_text().split()[0]) / 1e9
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float((precise or times.user + times.system) + ended)
