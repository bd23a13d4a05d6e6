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

HEADINGS: Final = ("ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED")


async def create(name: str, scopes: Sequence[str], *, expires_at: datetime | None) -> None:
    """Print the key alone, so that it can be piped into a secret store; what to do with it goes to stderr."""
    with database_url() as url:
        async with open_database(url):
            key = await service_keys.create_key(
                name, map(Scope, scopes), expires_at=expires_at, audit=command_line_action("createKey")
            )
    click.echo(key)
    click.echo(
        "Store it now: it is not shown again. It goes into the header `Authorization: Bearer KEY`; "
        f"`python -m app keys revoke {_id_of(key)}` ends it.",
        err=True,
    )


async def list_keys() -> None:
    """Print every key, one a line."""
    with database_url() as url:
        async with open_database(url):
            found = await service_keys.list_keys()
    if not found:
        click.echo("There are no keys: make one with `python -m app keys create NAME --scope charge`.")
        return
    now = utc_now()
    click.echo("\n".join(_table([HEADINGS, *(_row(key, now) for key in found)])))


async def revoke(key_id: str) -> None:
    """End a key; every server refuses it within 5 seconds, on live connections too."""
    with database_url() as url:
        async with open_database(url):
            done = await service_keys.revoke_key(_id_of(key_id), audit=command_line_action("revokeKey"))
    if not done:
        raise click.ClickException(
            f"There is no active key {_id_of(key_id)!r}: `python -m app keys list` shows the ids."
        )
    click.echo(f"{_id_of(key_id)} is revoked: every server refuses it within 5 seconds")


def _id_of(text: str) -> str:
    """The id, also where somebody gives the whole key."""
    found = KEY_PATTERN.fullmatch(text)
    return found[1] if found is not None else text


def _row(key: ServiceKey, now: datetime) -> tuple[str, ...]:
    return (
        key.id,
        key.name,
        ",".join(key.scopes),
        _state(key, now),
        _written(key.created_at),
        _written(key.expires_at),
        _written(key.last_used_at),
    )


def _state(key: ServiceKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _written(instant: datetime | None) -> str:
    return "never" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
