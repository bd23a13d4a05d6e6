"""A server process to be attacked: what it answers, what it takes of memory and CPU, what it wrote."""

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

DOCUMENTS: Final = int(os.environ.get("HOSTILE_DOCUMENTS", "120"))
MESSAGES: Final = int(os.environ.get("HOSTILE_MESSAGES", "120"))
ANSWERED_SECONDS: Final = 10.0
"""Within this time each probe has its answer, however busy the machine is."""
REQUEST_SECONDS: Final = 2
RATE_PER_USER: Final = 20
"""High enough that every probe is looked at, and low enough that a flood of a user's is seen to be held back."""
GRAPHQL_JSON: Final = "application/graphql-response+json"


@dataclass(frozen=True, slots=True)
class Target:
    """One server process, of one worker, with plans on over this run's database."""

    url: str
    tokens: Mapping[str, str]
    process: psutil.Process
    log: Path
    data_dir: Path
    mute: "Future[tuple[int, float]]"
    """How a WebSocket connection ended that was opened at the start and said nothing: its close code, its seconds."""

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
        return self.url.replace("http", "ws", 1) + "/graphql"

    def user(self, name: str) -> str:
        """A token of somebody who has not asked anything yet."""
        return user_token(name, settings=Settings(data_dir=self.data_dir))

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=ANSWERED_SECONDS)

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def cpu_seconds(self) -> float:
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def is_alive(self) -> bool:
        """Whether it answers what it is there for."""
        answer = httpx.post(
            f"{self.url}/graphql",
            json={"query": "{ account { ownerId balance { available } } }"},
            headers={"authorization": f"Bearer {self.tokens['user']}"},
            timeout=ANSWERED_SECONDS,
        )
        return answer.status_code == 200 and answer.json()["data"]["account"]["ownerId"] == "alice"

    def faults(self) -> list[str]:
        """What it wrote of faults of its own."""
        return re.findall(r".* (?:ERROR|CRITICAL) .*", self.log.read_text(errors="replace"))


def codes(answer: Any) -> set[str]:
    """The codes of an answer's errors."""
    return {error["extensions"]["code"] for error in answer.get("errors") or ()}


def authorized(token: str | None) -> dict[str, str]:
    return {"accept": GRAPHQL_JSON} | ({"authorization": f"Bearer {token}"} if token is not None else {})
