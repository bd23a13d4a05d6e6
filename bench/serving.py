"""Serving an application the way `python -m app serve` does: for the contenders that are no product."""

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from app.settings import get_settings


def serve(application: ASGIApp) -> None:
    """On a port that is free, which is printed, until SIGTERM or SIGINT."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        print(f"Serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


def serve_books(application: Callable[[str], ASGIApp]) -> None:
    """The application on the books that DATABASE_URL names. Raises: SystemExit: it names none."""
    url = get_settings().database_url
    if url is None:
        raise SystemExit("Set DATABASE_URL to the books that the bench has prepared.")
    serve(application(url))
