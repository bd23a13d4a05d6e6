"""`python -m app prices show | check FILE | publish FILE`"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from app.cli.connection import COMMAND_LINE, command_line_action, database_url, open_database
from app.errors import InvalidInput, InvalidRateCard
from app.pricing import publishing, rate_card_document
from app.pricing.models import RateCard
from app.pricing.quotes import Card
from app.pricing.rate_card_cache import RateCardCache
from app.pricing.rate_card_json import document_hash, format_document, parse_json


async def show(version: int | None) -> None:
    """Print the document of a rate card to stdout, for editing and publishing. Print its version to stderr."""
    with database_url() as url:
        async with open_database(url):
            card = await RateCardCache().find_card(version)
            row = await RateCard.get_or_none(version=card.version) if card else None
    if row is None:
        raise InvalidInput.at("version", f"{version} does not exist")
    print(f"rate card {row.version}, in force from {row.effective_at.isoformat()}", file=sys.stderr)
    print(format_document(row.document))


def check(file: Path) -> None:
    card = _parse(_read(file))
    print(f"{file.name} can be published: {_size(card)}")


def publish(file: Path, *, effective_at: datetime | None, reason: str | None, key: str | None) -> None:
    content = _read(file)
    _parse(content)  # reports errors before a database is opened
    asyncio.run(_publish(content, effective_at=effective_at, reason=reason, key=key))


async def _publish(content: object, *, effective_at: datetime | None, reason: str | None, key: str | None) -> None:
    with database_url() as url:
        async with open_database(url):
            published = await publishing.publish_rate_card(
                content,
                effective_at=effective_at,
                actor=COMMAND_LINE,
                audit=command_line_action("publishRateCard"),
                reason=reason,
                idempotency_key=_new_key(content) if key is None else key,
            )
    card = published.card
    done = "was published before" if published.replayed else "published"
    print(f"rate card {card.version} {done}, in force from {card.effective_at.isoformat()}: {_size(card)}")


def _new_key(content: object) -> str:
    return f"command-line-{datetime.now(UTC):%Y%m%dT%H%M%S}-{document_hash(content).hex()[:16]}"


def _read(file: Path) -> object:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidRateCard.at("document", "is not UTF-8") from None
    content: object = parse_json(text)
    return content


def _parse(content: object) -> Card:
    """Parse a rate card. Raises: InvalidRateCard, with all problems."""
    return rate_card_document.parse_rate_card(content, version=0, effective_at=datetime.now(UTC))


def _size(card: Card) -> str:
    return f"{len(card.blocks)} blocks, {len(card.models)} models"
