"""Stock GraphQL clients from npm against a real server: `make clients`.

The file is not named test_*, because it needs Node and npm: `make test` does not run it, `.ci/run` does. Each script
is a suite of Node's test runner.
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

import httpx
import pytest

from app.auth.development_keys import user_token
from app.settings import Settings
from tests.command_line import REPOSITORY, run_command, started_server
from tests.docs.pages import blocks

HERE = Path(__file__).parent
NODE = shutil.which("node") or "node"


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """The data directory of the servers, with their development keys and logs."""
    with tempfile.TemporaryDirectory(prefix="credits-clients-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def issuer(data_dir: Path) -> Iterator[str]:
    """The URL of a token issuer: GET /<name>/<seconds> returns a token of this user with this lifetime."""
    here = Settings(data_dir=data_dir)

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, name, seconds = self.path.split("/")
            token = user_token(name, timedelta(seconds=float(seconds)), settings=here).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(token)))
            self.end_headers()
            self.wfile.write(token)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def manifest(data_dir: Path) -> Path:
    """The manifest of the documents that the clients send by hash, checked by our command."""
    written = subprocess.run([NODE, "manifest.mjs"], cwd=HERE, capture_output=True, text=True, check=True, timeout=30)
    path = data_dir / "persisted-documents.json"
    path.write_text(written.stdout)
    checked = run_command("documents", "check", str(path))
    assert checked.returncode == 0, checked.stderr
    return path


@pytest.fixture(scope="session")
def environment(application_url: str, data_dir: Path, issuer: str, manifest: Path) -> Iterator[Mapping[str, str]]:
    """The environment of the scripts: a server, and one that accepts only persisted documents of users."""
    shared = {"DATABASE_URL": application_url, "DATA_DIR": str(data_dir), "PORT": "0", "KNOWN_DOCUMENTS": str(manifest)}
    with (
        started_server(data_dir / "log", **shared, COMPILE_OPERATIONS="on") as (_, url, tokens),
        started_server(data_dir / "strict-log", **shared, ARBITRARY_DOCUMENTS="services,operators") as (
            _,
            strict_url,
            _,
        ),
    ):
        yield os.environ | {
            "SERVER_URL": url,
            "STRICT_SERVER_URL": strict_url,
            "TOKENS_URL": issuer,
            "SERVICE_KEY": tokens["service"],
            "OPERATOR_TOKEN": tokens["operator"],
        }


@pytest.mark.parametrize("script", ["http_audits", "graphql_ws", "graphql_sse", "apollo", "urql"])
def test_a_stock_client_is_served(script: str, environment: Mapping[str, str], data_dir: Path) -> None:
    print(f"\n{script}", flush=True)
    completed = subprocess.run(
        [NODE, "--test-reporter=spec", f"{script}.mjs"], cwd=HERE, env=environment, check=False, timeout=60
    )

    logged = (data_dir / "log").read_text()
    assert completed.returncode == 0, logged[-5_000:]
    assert re.findall(r"Traceback|INTERNAL", logged) == []


@pytest.fixture(scope="session")
def documented_modules() -> Iterator[Path]:
    """The modules of docs/clients.md as files, in a directory from which they find the packages installed here."""
    with tempfile.TemporaryDirectory(prefix="documented-", dir=HERE) as directory:
        for block in blocks(REPOSITORY / "docs/clients.md", "js"):
            name = block.text.partition("\n")[0].removeprefix("// ")
            (Path(directory) / name).write_text(block.text)
        yield Path(directory)


@pytest.mark.parametrize("module", ["graphql-ws", "graphql-sse", "apollo", "urql"])
def test_a_documented_module_runs_as_pasted(
    module: str, documented_modules: Path, environment: Mapping[str, str], issuer: str
) -> None:
    token = httpx.get(f"{issuer}/reader/60").text
    addresses = {"CREDITS_URL": f"{environment['SERVER_URL']}/graphql", "CREDITS_TOKEN": token}

    ended = subprocess.run(
        [NODE, f"{module}.mjs"],
        cwd=documented_modules,
        env=dict(environment) | addresses,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"\bavailable: 0\b", ended.stdout), ended.stdout


def test_the_ledger_is_intact_afterwards(environment: Mapping[str, str], database_url: str, data_dir: Path) -> None:
    completed = run_command("verify", DATABASE_URL=database_url, DATA_DIR=str(data_dir))

    assert completed.returncode == 0, completed.stdout
