"""The application as `create_app` builds it, without a database."""

import logging
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.errors import Misconfigured
from app.main import NO_PROTOCOL_LIMITS, create_app
from app.settings import Settings
from tests.server.test_exposure import production

pytestmark = pytest.mark.anyio


def development_client(directory: Path) -> httpx.AsyncClient:
    app = create_app(Settings(database_url=SecretStr("postgresql://localhost/nowhere"), data_dir=directory))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://credits")


async def test_healthz_needs_no_database(tmp_path: Path) -> None:
    async with development_client(tmp_path) as client:
        assert (await client.get("/healthz")).json() == {"alive": True}


async def test_pages_of_any_origin_may_call_in_development(tmp_path: Path) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    async with development_client(tmp_path) as client:
        preflight = await client.options("/graphql", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"


def test_a_database_url_is_required(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL is not set"):
        create_app(Settings(database_url=None, data_dir=tmp_path))


@pytest.mark.parametrize(("has_protocol_limits", "warnings"), [(True, []), (False, [NO_PROTOCOL_LIMITS])])
def test_production_without_the_protocol_classes_of_serve_logs_a_warning(
    caplog: pytest.LogCaptureFixture, has_protocol_limits: bool, warnings: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        create_app(production(), has_protocol_limits=has_protocol_limits)
    assert [record.getMessage() for record in caplog.records] == warnings


def test_development_without_them_logs_only_that_it_is_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create_app(Settings(database_url=SecretStr("postgresql://localhost/nowhere"), data_dir=tmp_path))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["DEVELOPMENT"]
