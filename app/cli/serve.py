"""`python -m app serve`: the database, if there is none yet, then the server, and both stopped together."""

import asyncio
import contextlib
import errno
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app.auth.development_keys import issues_development_tokens
from app.cli import token
from app.cli.connection import embedded_server, migrate, open_database, override_settings
from app.db import roles
from app.errors import Misconfigured
from app.server import log_setup
from app.server.exposure import Exposure
from app.server.request_deadline import DeadlineHttpProtocol
from app.server.websocket_limits import LimitedWebSocketProtocol
from app.settings import get_settings, log_format, server_url

if TYPE_CHECKING:
    from starlette.applications import Starlette

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS: Final = 10
"""How long requests and subscriptions may take to end once the server has been asked to stop."""

PORT_RETRY_SECONDS: Final = 2
"""How long a port in use is tried again: the workers of a server killed with -9 need a moment to notice."""

EXAMPLE_QUERY: Final = '{"query": "{ account { ownerId balance { available status version } } }"}'


def run() -> int:
    """Serve until SIGINT or SIGTERM. The exit status: 0, or what the server process failed with."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    with _listen(get_settings().host, get_settings().port) as listener, _database():
        override_settings(port=str(listener.getsockname()[1]))
        Exposure.from_settings(get_settings())
        tokens = asyncio.run(_prepare())
        try:
            return _serve(listener, tokens)
        finally:
            for number in STOP_SIGNALS:
                signal.signal(
                    number, signal.SIG_IGN
                )  # an impatient second Ctrl-C must not interrupt the database's end


def application() -> "Starlette":
    """What a server process runs. A worker ends at once if the process that started it is gone (`kill -9`), and for
    good if these settings do not let it begin."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True, name="follow-parent").start()
    log_setup.configure_logging(log_format(get_settings()))
    from app.main import create_app  # here, so that the supervisor does not carry what only its workers use

    try:
        return create_app(has_protocol_limits=True)
    except Misconfigured as refusal:
        if parent is None:
            raise
        print(f"Error: {refusal}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)  # any other status, and the supervisor would start it again and again


def _serve(listener: socket.socket, tokens: dict[token.Kind, str]) -> int:
    """Once it has greeted, whoever started it may stop it: by then a signal is kept until the server can end in order.
    Raised as `_leave` does, it would end a beginning server anywhere, or nowhere: in a callback it is lost.
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
        log_config=None,  # ours: `logs`
        log_level="warning",
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(get_settings().forwarded_allow_ips or ("127.0.0.1",)),
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    if config.workers == 1:
        server = uvicorn.Server(config)
        for number in STOP_SIGNALS:
            signal.signal(number, server.handle_exit)
        _greet(tokens)
        server.run(sockets=[listener])
        return 0
    supervisor = Multiprocess(config, sockets=[listener])  # it keeps signals from here on
    _greet(tokens)
    supervisor.run()
    return STARTUP_FAILURE if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes) else 0


@contextlib.contextmanager
def _database() -> Iterator[None]:
    """A database for this process and its workers: the one of DATABASE_URL, or the embedded one."""
    if get_settings().database_url:
        yield
        return
    with embedded_server() as server:
        override_settings(database_url=server.application_url, migration_database_url=server.url)
        yield


async def _prepare() -> dict[token.Kind, str]:
    """Bring a development database up to date, and make tokens for it. Production's is only looked at: a release step
    migrates it, an operator publishes its prices, and its tokens come from elsewhere. What its role could do to history
    is said."""
    here = get_settings()
    if here.environment == "development":
        await migrate(here.migration_database_url or _url(), _url())
    async with open_database(_url()):
        if here.environment == "production":
            for fault in await roles.find_excess_privileges():
                print(fault, file=sys.stderr)
            return {}
        if not issues_development_tokens(here):
            return {}
        return {kind: await token.create_token(kind, name) for kind, name in token.EXAMPLE_NAMES.items()}


def _greet(tokens: dict[token.Kind, str]) -> None:
    """Say where the server is and, in development, how to talk to it."""
    url = server_url()
    print(f"Serving on {url} (stop with Ctrl-C)")
    if tokens:
        print("\nTokens of development, for the header `Authorization: Bearer TOKEN`:")
        for kind, name in token.EXAMPLE_NAMES.items():
            print(f"\n  {kind} {name}\n  {tokens[kind]}")
        headers = ("Content-Type: application/json", f"Authorization: Bearer {tokens['user']}")
        options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
        print(f"\nTry it:\n\n  curl -s {url}/graphql {options} -d {shlex.quote(EXAMPLE_QUERY)}\n")
    sys.stdout.flush()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: nobody takes the port meanwhile, and who connects early waits a moment."""
    deadline = time.monotonic() + PORT_RETRY_SECONDS
    while True:
        try:
            return _bound(host, port)
        except OSError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise Misconfigured(
                    f"Cannot listen on {host}, port {port} ({fault.strerror}): set HOST and PORT."
                ) from None
            if time.monotonic() > deadline:
                other = port + 1 if port < 65_535 else 8000
                raise Misconfigured(f"Port {port} of {host} is in use: try PORT={other} make serve.") from None
        time.sleep(0.1)


def _bound(host: str, port: int) -> socket.socket:
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


def _url() -> str:
    url = get_settings().database_url
    if url is None:
        raise Misconfigured("DATABASE_URL is unset.")
    return url


def _leave(_signal: int, _frame: object) -> None:
    """While it starts: leave through every `with`."""
    raise SystemExit(0)
