"""`python -m app keys create NAME --scope SCOPE | list | revoke ID`"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import click

from app.auth import service_keys
from app.auth.caller import Scope
from app.auth.models import ServiceKey
from app.auth.service_keys import KEY_PATTERN
from app.auth.tokens import utc_now
from app.cli.connection import command_line_action, database_url, open_database
from app.wording import quote_value

HEADINGS: Final = ("ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED")


async def create(name: str, scopes: Sequence[str], *, expires_at: datetime | None) -> None:
    """Print only the key to stdout, so that it can be piped into a secret store. Print how to use it to stderr."""
    with database_url() as url:
        async with open_database(url):
            key = await service_keys.create_key(
                name, map(Scope, scopes), expires_at=expires_at, audit=command_line_action("createKey")
            )
    click.echo(key)
    click.echo(
        "Store it now: it is not shown again. Send it in the header `Authorization: Bearer KEY`. "
        f"`python -m app keys revoke {_key_id(key)}` revokes it.",
        err=True,
    )


async def list_keys() -> None:
    """Print a line for each key."""
    with database_url() as url:
        async with open_database(url):
            keys = await service_keys.list_keys()
    if not keys:
        click.echo("There are no keys: create one with `python -m app keys create NAME --scope charge`.")
        return
    now = utc_now()
    click.echo("\n".join(_table([HEADINGS, *(_row(key, now) for key in keys)])))


async def revoke(key_id: str) -> None:
    """Revoke a key. Within 5 seconds, servers refuse it and close the connections that use it."""
    with database_url() as url:
        async with open_database(url):
            is_revoked = await service_keys.revoke_key(_key_id(key_id), audit=command_line_action("revokeKey"))
    if not is_revoked:
        raise click.ClickException(
            f"There is no active key {quote_value(_key_id(key_id))}: `python -m app keys list` lists the ids."
        )
    click.echo(f"{_key_id(key_id)} is revoked: servers refuse it within 5 seconds")


def _key_id(text: str) -> str:
    """Return the id of a key. `text` is the whole key or its id."""
    match = KEY_PATTERN.fullmatch(text)
    return match[1] if match is not None else text


def _row(key: ServiceKey, now: datetime) -> tuple[str, ...]:
    return (
        key.id,
        key.name,
        ",".join(key.scopes),
        _state(key, now),
        _format_time(key.created_at),
        _format_time(key.expires_at),
        _format_time(key.last_used_at),
    )


def _state(key: ServiceKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _format_time(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
