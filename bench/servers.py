"""Servers as processes of their own: started, waited for, ended."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

CHECKOUT: Final = Path(__file__).resolve().parent.parent
START_SECONDS: Final = 60
STOP_SECONDS: Final = 20


class ServerFailed(Exception):
    """A server did not start; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(name: str, module: str, *arguments: str, place: Path, **environment: str) -> Iterator[Server]:
    """`python -m MODULE ARGUMENTS`, answering, for as long as this lasts. What it says is kept in `place`.

    Raises: ServerFailed.
    """
    said = place / f"{name}.log"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=CHECKOUT,
            env=dict(os.environ) | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(process.pid, _port(name, process, said))
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def settings_of(url: str, **more: str) -> Mapping[str, str]:
    """The environment of a server of the bench, whatever else is set where it runs."""
    return {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": "0", "WORKERS": "1", **more}


def _port(name: str, process: subprocess.Popen[bytes], said: Path) -> int:
    """The port that it prints, once it answers there."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"^Serving on http://127\.0\.0\.1:(\d+)", said.read_text(errors="replace"), re.MULTILINE):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{found[1]}/", timeout=5)
                return int(found[1])
        time.sleep(0.05)
    raise ServerFailed(f"{name} did not start. It said:\n{said.read_text(errors='replace')[-4000:]}")
