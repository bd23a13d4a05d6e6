"""Boundary values in every argument of every operation, sent by every kind of caller."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count

import httpx
import pytest
from hypothesis import HealthCheck, given, note, settings

from tests.command_line import run_command
from tests.conftest import LEDGER_KEY
from tests.hostile.boundary_requests import TARGETS, Request, requests, to_body
from tests.hostile.boundary_values import replace_references
from tests.hostile.populated_account import PopulatedAccount, populate
from tests.hostile.server_under_test import ANSWERED_SECONDS, Target, authorized
from tests.soak import sized
from tests.worker_processes import Report

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS") or sized(300, soak=20_000))
REQUESTS_PER_ACCOUNT = 100
ACCOUNTS_AT_ONCE = 3
"""So many that no user exceeds its rate limit."""
FIRST_ITEM_SECONDS = 0.4
"""The time that a subscription without an item is kept open. The server sends its headers within 0.25 s."""
_CODE = re.compile(r'"code":"(\w+)"')
FAULTS = {"INTERNAL", "UNAVAILABLE", "TIMED_OUT"}


class Attack:
    """Sends requests to accounts that are replaced after some requests, because requests change them."""

    def __init__(self, target: Target, client: httpx.Client) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        self._target = target
        self._client = client
        self._numbers = count()
        self._accounts: list[PopulatedAccount] = []
        self._run = f"boundary-{time.time_ns()}"

    def _account(self) -> PopulatedAccount:
        number = next(self._numbers)
        if number % (REQUESTS_PER_ACCOUNT * ACCOUNTS_AT_ONCE) == 0:
            for _ in range(ACCOUNTS_AT_ONCE):
                owner = f"{self._run}-{number}-{len(self._accounts)}"
                other = self._accounts[-1].owner if self._accounts else "alice"
                self._accounts.append(populate(self._target, self._client, owner, other))
            del self._accounts[:-ACCOUNTS_AT_ONCE]
        return self._accounts[number % ACCOUNTS_AT_ONCE]

    def send(self, request: Request) -> None:
        """Send a request, then as another caller if its caller has no permission. No answer may be a fault."""
        account = self._account()
        calls = [replace_references(call.arguments, account.find) for call in request.calls]
        body = to_body(request, calls)
        note(f"{request.target} by {request.caller}: {body}")
        for caller in dict.fromkeys((request.caller, "operator", "service", "user")):
            started = time.monotonic()
            status, text = self._post(body, account.token(caller), streams=request.target.keyword == "subscription")
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
            self.sent[str(request.target)] += 1
            outcomes = set(_CODE.findall(text)) or {"ok"}
            self.outcomes.update(outcomes)
            assert status < 500, (status, text)
            assert not FAULTS & outcomes, text
            assert '"InternalError"' not in text, text
            assert caller == "anonymous" or "RATE_LIMITED" not in outcomes, caller
            if not outcomes & {"FORBIDDEN", "UNAUTHENTICATED", "RATE_LIMITED"}:
                return

    def _post(self, body: str, token: str | None, *, streams: bool) -> tuple[int, str]:
        headers = authorized(token) | {"content-type": "application/json"}
        if not streams:
            reply = self._client.post("/graphql", content=body, headers=headers)
            return reply.status_code, reply.text
        headers["accept"] = "text/event-stream"
        timeout = httpx.Timeout(ANSWERED_SECONDS, read=FIRST_ITEM_SECONDS)
        text = ""
        try:
            with self._client.stream("POST", "/graphql", content=body, headers=headers, timeout=timeout) as reply:
                status = reply.status_code
                for part in reply.iter_text():
                    text += part
                    if "data:" in text:
                        break
        except httpx.ReadTimeout:
            return 200, text
        return status, text


@pytest.fixture
def attack(target: Target) -> Iterator[Attack]:
    with httpx.Client(base_url=target.url, timeout=ANSWERED_SECONDS) as client:
        yield Attack(target, client)


def test_no_boundary_value_causes_an_internal_error(attack: Attack, report: Report, database_url: str) -> None:
    @settings(max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests())
    def send(request: Request) -> None:
        attack.send(request)

    started = time.monotonic()
    send()
    report(
        f"{attack.sent.total():,} requests with boundary values in {time.monotonic() - started:.0f} s, "
        f"{len(attack.sent)} of {len(TARGETS)} arguments, slowest {attack.slowest_seconds:.2f} s: "
        f"{dict(sorted(attack.outcomes.items()))}"
    )
    verified = run_command("verify", DATABASE_URL=database_url, LEDGER_KEY=LEDGER_KEY.hex())
    assert verified.returncode == 0, verified.stdout + verified.stderr
