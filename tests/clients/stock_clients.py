"""Clients as they come from npm, against a server that was started as anybody starts it: `make clients`.

Not named test_...: it needs Node and npm, so `make test` leaves it alone, and `.ci/run` runs it. Each script is a suite
of Node's own test runner; its checks are printed by name.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.auth.development_keys import user_token
from app.settings import Settings
from tests.command_line import run_command, started_server

HERE = Path(__file__).parent
NODE = shutil.which("node") or "node"


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """What the servers keep: development's keys, and what they log."""
    with tempfile.TemporaryDirectory(prefix="credits-clients-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def issuer(place: Path) -> Iterator[str]:
    """The address of who signs users' tokens: GET /<name>/<seconds> is answered with one that lives so long."""
    here = Settings(data_dir=place)

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, name, seconds = self.path.split("/")
            token = user_token(name, timedelta(seconds=float(seconds)), settings=here).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(token)))
            self.end_headers()
            self.wfile.write(token)

        def log_message(self, *_: Any) -> None:
            """No line on the terminal for each."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def manifest(place: Path) -> Path:
    """The documents that the clients send by hash, written as a frontend's build writes them and checked by ours."""
    written = subprocess.run([NODE, "manifest.mjs"], cwd=HERE, capture_output=True, text=True, check=True, timeout=30)
    path = place / "known-documents.json"
    path.write_text(written.stdout)
    checked = run_command("documents", "check", str(path))
    assert checked.returncode == 0, checked.stderr
    return path


@pytest.fixture(scope="session")
def surroundings(application_url: str, place: Path, issuer: str, manifest: Path) -> Iterator[Mapping[str, str]]:
    """What the scripts find in their environment: a server, and one whose users send known documents only."""
    shared = {"DATABASE_URL": application_url, "DATA_DIR": str(place), "PORT": "0", "KNOWN_DOCUMENTS": str(manifest)}
    with (
        started_server(place / "log", **shared, COMPILE_OPERATIONS="on") as (_, url, tokens),
        started_server(place / "strict-log", **shared, ARBITRARY_DOCUMENTS="services,operators") as (_, strict_url, _),
    ):
        yield os.environ | {
            "SERVER_URL": url,
            "STRICT_SERVER_URL": strict_url,
            "TOKENS_URL": issuer,
            "SERVICE_KEY": tokens["service"],
            "OPERATOR_TOKEN": tokens["operator"],
        }


@pytest.mark.parametrize("script", ["audits", "graphql_ws", "graphql_sse", "apollo", "urql"])
def test_a_stock_client_is_served(script: str, surroundings: Mapping[str, str], place: Path) -> None:
    print(f"\n{script}", flush=True)
    told = subprocess.run(
        [NODE, "--test-reporter=spec", f"{script}.mjs"], cwd=HERE, env=surroundings, check=False, timeout=60
    )

    logged = (place / "log").read_text()
    assert told.returncode == 0, logged[-5_000:]
    assert re.findall(r"Traceback|INTERNAL", logged) == []


def test_the_books_are_exact_afterwards(surroundings: Mapping[str, str], database_url: str, place: Path) -> None:
    told = run_command("verify", DATABASE_URL=database_url, DATA_DIR=str(place))

    assert told.returncode == 0, told.stdout
