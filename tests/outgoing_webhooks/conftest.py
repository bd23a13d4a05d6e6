"""Fixtures: a receiver, and a worker that may call it although its address is private."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.outgoing_webhooks.secret_box import SecretBox
from app.outgoing_webhooks.sender import Sender
from app.outgoing_webhooks.worker import WebhookWorker
from tests.outgoing_webhooks.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def box() -> SecretBox:
    return SecretBox([bytes(range(32))])


@pytest.fixture
async def worker(db: str, box: SecretBox) -> AsyncIterator[WebhookWorker]:
    sender = Sender(allow_private=True)
    yield WebhookWorker(sender, box)
    await sender.close()
