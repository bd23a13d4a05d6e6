"""`python -m app serve`: runs the server, and an embedded PostgreSQL if DATABASE_URL is not set.

Both stop together.
"""

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app import metrics
from app.auth.development_keys import issues_development_tokens
from app.cli import token
from app.cli.connection import embedded_server, migrate, open_database, override_settings
from app.db import roles
from app.errors import Misconfigured
from app.server import log_setup
from app.server.request_deadline import DeadlineHttpProtocol
from app.server.stopping import stop_at_signals
from app.server.websocket_limits import LimitedWebSocketProtocol
from app.settings import get_settings, log_format, reveal, server_url

if TYPE_CHECKING:
    from starlette.applications import Starlette

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS: Final = 8.0
"""The longest time from a stop signal to the end of a process. Then the process exits, even if it has not finished."""
REQUEST_STOP_SECONDS: Final = 4
"""The time that requests may take to end after a stop signal. Then they are cancelled."""
PORT_RETRY_SECONDS: Final = 2
"""How long to retry a port that is in use: after `kill -9` of a server, its workers exit a moment later."""
EXAMPLE_QUERY: Final = '{"query": "{ account { ownerId balance { available status version } } }"}'

log = logging.getLogger(__name__)


def run(*, host: str | None = None, port: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM. `host` and `port` replace the settings.

    Returns: the exit status: 0, or that of a failed start. Raises: Misconfigured: names every problem of the settings.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, _exit_while_starting)
    if host is not None:
        override_settings(host=host)
    if port is not None:
        override_settings(port=str(port))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(get_settings().host, get_settings().port))
        _check_settings()  # in development, this creates keys, so the port must be free first
        stack.enter_context(_database())
        override_settings(port=str(listener.getsockname()[1]))
        tokens = asyncio.run(_prepare_database())
        try:
            return _serve(listener, tokens)
        finally:
            for number in STOP_SIGNALS:  # a second Ctrl-C must not interrupt the shutdown of the database
                signal.signal(number, signal.SIG_IGN)


def application() -> "Starlette":
    """Create the application of a server process. A worker exits when its parent has ended, even by `kill -9`."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def exit_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=exit_with_parent, daemon=True, name="exit-with-parent").start()
    stop_at_signals(STOP_SIGNALS, seconds=STOP_SECONDS)
    log_setup.configure_logging(log_format(get_settings()))
    from app.main import create_app  # the supervisor does not import it, to save memory

    try:
        return create_app(has_protocol_limits=True)
    except Misconfigured as error:
        if parent is None:
            raise
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)  # after any other status, the supervisor would restart the worker repeatedly


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, with two changes.

    - If a replaced worker cannot start, for example because the database is unreachable, it is started again. uvicorn
      would stop the whole server, with all workers.
    - The listener is closed when the server stops. Otherwise the kernel would accept connections until the last worker
      has ended, although no worker serves them.
    """

    def init_processes(self) -> None:
        super().init_processes()
        self._first_processes = list(self.processes)

    def keep_subprocess_alive(self) -> None:
        was_stopping = self.should_exit.is_set()
        super().keep_subprocess_alive()
        if was_stopping or not self.should_exit.is_set():
            return
        failed = [process for process in self.processes if process.exitcode == STARTUP_FAILURE]
        if any(process in self._first_processes for process in failed):
            return  # the server has never run with these settings
        log.warning("a worker could not start and is started again; the other workers continue")
        for process in failed:
            self.processes[self.processes.index(process)] = again = Process(self.config, self.sockets)
            again.start()
        self.should_exit.clear()

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def _serve(listener: socket.socket, tokens: dict[token.Kind, str]) -> int:
    """Serve on the listener. Return the exit status.

    uvicorn's signal handlers are installed before the address is printed, because a program that reads the address may
    send a signal immediately. Otherwise `_exit_while_starting` would handle this signal: it would raise inside
    uvicorn's start, or inside a callback, where the exception is lost.
    """
    log_setup.configure_logging(log_format(get_settings()))
    config = uvicorn.Config(
        f"{__name__}:{application.__name__}",
        factory=True,
        workers=get_settings().workers,
        loop="uvloop",
        http=DeadlineHttpProtocol,
        ws=LimitedWebSocketProtocol,
        ws_max_size=65_536,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,  # configured by log_setup
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(get_settings().forwarded_allow_ips or ("127.0.0.1",)),
        timeout_graceful_shutdown=REQUEST_STOP_SECONDS,
    )
    if config.workers == 1:
        server = uvicorn.Server(config)
        for number in STOP_SIGNALS:
            signal.signal(number, server.handle_exit)
        _print_address(tokens)
        server.run(sockets=[listener])
        return 0
    with tempfile.TemporaryDirectory(prefix="credits-metrics-") as directory:
        os.environ[metrics.DIRECTORY] = directory  # the workers inherit it
        supervisor = _Supervisor(config, sockets=[listener])  # installs its own signal handlers
        _print_address(tokens)
        supervisor.run()
    return STARTUP_FAILURE if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0


@contextlib.contextmanager
def _database() -> Iterator[None]:
    """If DATABASE_URL is not set, start the embedded PostgreSQL and set its URL for this process and its workers."""
    if get_settings().database_url:
        yield
        return
    with embedded_server() as server:
        override_settings(database_url=server.application_url, migration_database_url=server.url)
        yield


def _check_settings() -> None:
    """Raises: Misconfigured: the server would not start. The message has a line for each problem."""
    from app.cli.checklist.settings_checks import startup_problems

    settings = get_settings()
    if problems := startup_problems(settings):
        option = " --production" if settings.environment == "production" else ""
        raise Misconfigured("\n".join([*problems, f"`python -m app check{option}` checks more, also the database."]))


async def _prepare_database() -> dict[token.Kind, str]:
    """In development, migrate, and return the tokens to print. In production, report privileges that are too wide.

    In production the server does not migrate, because this is a step of each release. It prints no tokens, because the
    identity provider issues them.
    """
    settings = get_settings()
    url = reveal(settings.database_url)
    if url is None:
        raise Misconfigured("DATABASE_URL is not set: set it to the URL of a PostgreSQL database.")
    if settings.environment == "development":
        await migrate(reveal(settings.migration_database_url) or url, url)
    async with open_database(url):
        if settings.environment == "production":
            for problem in await roles.find_excess_privileges():
                print(problem, file=sys.stderr)
            return {}
        if not issues_development_tokens(settings):
            return {}
        return {kind: await token.create_token(kind, name) for kind, name in token.EXAMPLE_NAMES.items()}


def _print_address(tokens: dict[token.Kind, str]) -> None:
    """Print the URL and, in development, tokens and a request to paste."""
    url = server_url()
    print(f"Serving on {url} (stop with Ctrl-C)")
    if tokens:
        print("\nDevelopment tokens, for the header `Authorization: Bearer TOKEN`:")
        for kind, name in token.EXAMPLE_NAMES.items():
            print(f"\n  {kind} {name}\n  {tokens[kind]}")
        headers = ("Content-Type: application/json", f"Authorization: Bearer {tokens['user']}")
        options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
        print(f"\nTry it:\n\n  curl -s {url}/graphql {options} -d {shlex.quote(EXAMPLE_QUERY)}\n")
    sys.stdout.flush()


def _listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens, so that the port is reserved and early clients wait. Raises: Misconfigured."""
    deadline = time.monotonic() + PORT_RETRY_SECONDS
    while True:
        try:
            return _bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Misconfigured(
                    f"Cannot listen on {host}, port {port} ({error.strerror}): set HOST and PORT."
                ) from None
            if time.monotonic() > deadline:
                other = port + 1 if port < 65_535 else 8000
                raise Misconfigured(f"Port {port} of {host} is in use: try PORT={other} make serve.") from None
        time.sleep(0.1)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _exit_while_starting(_signal: int, _frame: object) -> None:
    """Leave all `with` blocks, so that the database is stopped."""
    raise SystemExit(0)
