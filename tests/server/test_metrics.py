"""The metrics endpoint, and the documents that use metrics. `tests/stories/test_metrics.py` drives each metric."""

import json
import re
from typing import Any

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.routing import Route

from app import metrics
from app.db import pools
from app.server.metrics_endpoint import MetricsEndpoint
from tests.command_line import REPOSITORY

pytestmark = pytest.mark.anyio

TOKEN = "a token of the metrics"


async def get_metrics(token: str | None, authorization: str | None = None) -> httpx.Response:
    application = Starlette(routes=[Route("/metrics", MetricsEndpoint(token).respond)])
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        headers = {} if authorization is None else {"authorization": authorization}
        return await client.get("/metrics", headers=headers)


async def test_with_a_token_only_its_holders_read_the_metrics(db: str) -> None:
    assert (await get_metrics(TOKEN, f"Bearer {TOKEN}")).status_code == 200
    for wrong in (None, "", f"bearer {TOKEN}x", f"Basic {TOKEN}"):
        refused = await get_metrics(TOKEN, wrong)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "credits_" not in refused.text


async def test_if_the_database_does_not_answer_the_other_metrics_are_reported(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(pools, "fetch", fail)
    text = (await get_metrics(None)).text
    assert "credits_database_up 0.0" in text
    assert "credits_subscriptions 0.0" in text
    assert "credits_provider_events" not in text


async def test_the_figures_of_the_database_are_reported(db: str) -> None:
    await pools.fetch(
        "INSERT INTO verification (finished_at, is_intact, accounts, entries, violations)"
        " VALUES ('2026-01-31T12:00:00Z', false, 3, 9, 1), ('2026-01-30T12:00:00Z', true, 3, 9, 0) RETURNING 1"
    )
    await pools.fetch(
        "INSERT INTO provider_event (event_id, provider, body, received_at, attempts, next_attempt_at, parked_at,"
        " handled_at) SELECT 'event ' || n, 'sandbox', '{}', now(), 0, CASE WHEN n < 3 THEN now() END,"
        " CASE WHEN n = 3 THEN now() END, CASE WHEN n = 4 THEN now() END FROM generate_series(1, 4) AS n RETURNING 1"
    )
    await pools.fetch(
        "INSERT INTO webhook_endpoint (id, url, description, event_types, in_order, secret, created_at, disabled_at,"
        " failing_since) VALUES ('one', 'https://a.example/', '', '[]', false, '', now(), NULL, now()),"
        " ('two', 'https://b.example/', '', '[]', false, '', now(), now(), NULL) RETURNING 1"
    )
    await pools.fetch(
        "INSERT INTO webhook_delivery (account_id, endpoint_id, event_id, event_type, payload, created_at,"
        " next_attempt_at, delivered_at) SELECT 1, 'one', 'event', 'balance.low', '{}', now(), now(),"
        " CASE WHEN n = 2 THEN now() END FROM generate_series(1, 2) AS n RETURNING 1"
    )
    lines = (await get_metrics(None)).text.splitlines()
    for line in (
        "credits_database_up 1.0",
        'credits_provider_events{state="waiting"} 2.0',
        'credits_provider_events{state="parked"} 1.0',
        'credits_webhook_endpoints{state="failing"} 1.0',
        'credits_webhook_endpoints{state="disabled"} 1.0',
        "credits_webhook_deliveries_pending 1.0",
        "credits_verification_timestamp_seconds 1.7698608e+09",
        "credits_verification_intact 0.0",
    ):
        assert line in lines


def existing_names() -> set[str]:
    """The names of all samples that the server can report."""
    names = {
        f"{family.name}{suffix}"
        for family in metrics.REGISTRY.collect()
        for suffix in (("_bucket", "_sum", "_count") if family.type == "histogram" else ("_total", ""))
    }
    return names | {
        "credits_database_up", "credits_provider_events", "credits_webhook_endpoints",
        "credits_webhook_deliveries_pending", "credits_verification_timestamp_seconds", "credits_verification_intact",
    }  # fmt: skip


def test_the_dashboard_uses_only_metrics_that_exist() -> None:
    dashboard = json.loads((REPOSITORY / "docs/grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    used = {name for expression in expressions for name in re.findall(r"credits_\w+", expression)}
    assert used <= existing_names()
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used} == {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in existing_names()
    }


def test_the_alert_rules_use_only_metrics_that_exist_and_say_what_to_do() -> None:
    [group] = yaml.safe_load((REPOSITORY / "docs/alert-rules.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert set(re.findall(r"credits_\w+", rule["expr"])) <= existing_names(), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_documentation_lists_every_metric() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text()
    listed = set(re.findall(r"`(credits_\w+)`", page))
    assert {name.removesuffix("_total") for name in listed} == {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in existing_names()
    }
