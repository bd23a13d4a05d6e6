"""One installation for the tests of a process. After a test that failed, its server is replaced."""

import signal
from collections.abc import AsyncIterator

import pytest

from tests.faults.installation import Installation, running_installation


@pytest.fixture(scope="package")
async def shared_installation() -> AsyncIterator[Installation]:
    # The smallest queue of notifications that PostgreSQL allows, so that a test can fill it.
    async with running_installation(max_notify_queue_pages="64") as installation:
        yield installation


@pytest.fixture
async def installation(
    shared_installation: Installation, request: pytest.FixtureRequest
) -> AsyncIterator[Installation]:
    failed = request.session.testsfailed
    yield shared_installation
    shared_installation.database_proxy.close_dead_links()
    if request.session.testsfailed > failed:
        print(shared_installation.errors())
        await shared_installation.end_server(signal.SIGKILL)
        await shared_installation.start_server()
