"""A server process under attack: its responses, memory, CPU time and log."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from app.auth.development_keys import user_token
from app.settings import Settings
from tests.graphql_client import authorization, execute, websocket_url

DOCUMENTS: Final = int(os.environ.get("HOSTILE_DOCUMENTS", "120"))
MESSAGES: Final = int(os.environ.get("HOSTILE_MESSAGES", "120"))
ANSWERED_SECONDS: Final = 10.0
"""Time within which every attack must be answered, however busy the machine is."""
REQUEST_SECONDS: Final = 2
RATE_PER_USER: Final = 20
"""High enough that every attack is executed, and low enough that a flood exceeds it."""
GRAPHQL_JSON: Final = "application/graphql-response+json"


@dataclass(frozen=True, slots=True)
class Target:
    """One server process with one worker."""

    url: str
    tokens: Mapping[str, str]
    process: psutil.Process
    log: Path
    data_dir: Path
    silent_connection: "Future[tuple[int, float]]"
    """Close code and duration of a WebSocket that was opened at the start and sent nothing."""

    @property
    def host(self) -> str:
        return httpx.URL(self.url).host

    @property
    def port(self) -> int:
        port = httpx.URL(self.url).port
        assert port is not None
        return port

    @property
    def socket_url(self) -> str:
        return websocket_url(self.url)

    def user(self, name: str) -> str:
        """A token of a user who has sent nothing yet."""
        return user_token(name, settings=Settings(data_dir=self.data_dir))

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=ANSWERED_SECONDS)

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def cpu_seconds(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def is_alive(self) -> bool:
        """Whether it answers a simple query."""
        data = execute(self.url, self.tokens["user"], "{ account { ownerId balance { available } } }")
        return bool(data["account"]["ownerId"] == "alice")

    def logged_errors(self) -> list[str]:
        return re.findall(r".* (?:ERROR|CRITICAL) .*", self.log.read_text(errors="replace"))


def codes(answer: Any) -> set[str]:
    """The codes of an answer's errors."""
    return {error["extensions"]["code"] for error in answer.get("errors") or ()}


def authorized(token: str | None) -> dict[str, str]:
    return {"accept": GRAPHQL_JSON} | authorization(token)
