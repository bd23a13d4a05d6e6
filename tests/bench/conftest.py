"""What tests of the bench's servers share: a database of the test's own, reached as the bench reaches it."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from app.db.database_url import connection_arguments
from app.settings import get_settings
from bench import databases


@pytest.fixture
async def own_database(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Its address; DATA_DIR is the test's own, too."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    name = f"bench_{secrets.token_hex(6)}"
    yield await databases.create(database_url, name)
    admin = await asyncpg.connect(**connection_arguments(database_url))
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()
    monkeypatch.undo()
    get_settings.cache_clear()
