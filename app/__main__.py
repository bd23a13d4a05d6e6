"""`python -m app`: the commands. What a command needs is imported when it runs, so that `--help` is quick."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
TIMESTAMP = click.DateTime(["%Y-%m-%dT%H:%M:%S%z"])


class CommandGroup(click.Group):
    """Says which settings there are below its commands, and turns what can go wrong into a sentence with its remedy."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from app.cli import settings_help

        super().format_epilog(ctx, formatter)
        with formatter.section("Settings, from the environment, each with its [default]"):
            formatter.write_dl(list(settings_help.rows()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as fault:
            from app.cli import error_messages

            if (message := error_messages.message_for(fault)) is None:
                raise
            raise click.ClickException(message) from fault


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Prepaid credits for a platform that runs AI agents."""


@cli.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Start the server, and a PostgreSQL if DATABASE_URL is unset."""
    from app.cli import serve

    ctx.exit(serve.run())


@cli.command()
def migrate() -> None:
    """Bring the database up to date."""
    from app.cli import migrate

    asyncio.run(migrate.run())


@cli.command()
def schema() -> None:
    """Print the GraphQL schema."""
    from app.cli import schema

    schema.run()


@cli.command()
@click.argument("kind", type=click.Choice(["user", "service", "operator"]))
@click.argument("name")
def token(kind: Any, name: str) -> None:
    """Print a token of development, and nothing else: token user alice."""
    from app.cli import token

    asyncio.run(token.run(kind, name))


@cli.group()
def keys() -> None:
    """Make, list and revoke service keys.

    To change a key without a gap: create a second one of the same name, roll it out, revoke the first.
    """


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["charge", "read", "admin"]),
    help="charge: open tasks, charge, and read; read: read any account; admin: what an operator may. Repeat for more.",
)
@click.option("--expires-at", type=TIMESTAMP, help="2026-01-31T00:00:00+0000. Default: never.")
def keys_create(name: str, scopes: tuple[str, ...], expires_at: datetime | None) -> None:
    """Print a new key for NAME, and nothing else; it is shown this once: keys create executor --scope charge."""
    from app.cli import keys

    asyncio.run(keys.create(name, scopes, expires_at=expires_at))


@keys.command("list")
def keys_list() -> None:
    """Print every key ever made, without its secret."""
    from app.cli import keys

    asyncio.run(keys.list_keys())


@keys.command("revoke")
@click.argument("id")
def keys_revoke(id: str) -> None:
    """End the key ID (the whole key will do); every server refuses it within 5 seconds."""
    from app.cli import keys

    asyncio.run(keys.revoke(id))


@cli.command()
@click.argument("owner")
@click.argument("credits", type=int)
@click.option("--reason", required=True, help="Why: it stands in the entry.")
@click.option("--source", type=click.Choice(["PROMOTIONAL", "PURCHASED", "ADJUSTMENT"]), default="PROMOTIONAL")
@click.option("--priority", type=int, default=0, help="Lower burns first, from -1000 to 1000.")
@click.option("--expires-at", type=TIMESTAMP, help="2026-01-31T00:00:00+0000. Default: never.")
@click.option("--key", help="An idempotency key: the same one again grants nothing more. Default: a new one.")
def grant(owner: str, credits: int, **chosen: Any) -> None:
    """Give credits to an account: grant alice 1000 --reason welcome."""
    from app.cli import grant

    asyncio.run(grant.run(owner, credits, **chosen))


@cli.group()
def prices() -> None:
    """Show, check and publish rate cards."""


@prices.command("show")
@click.option("--version", type=click.IntRange(min=1), help="Any version ever published. Default: the one in force.")
def prices_show(version: int | None) -> None:
    """Print the rate card as a file that can be changed and published."""
    from app.cli import prices

    asyncio.run(prices.show(version))


@prices.command("check")
@click.argument("file", type=FILE)
def prices_check(file: Path) -> None:
    """Say whether FILE can be published, or everything that is wrong with it."""
    from app.cli import prices

    prices.check(file)


@prices.command("publish")
@click.argument("file", type=FILE)
@click.option(
    "--at",
    "effective_at",
    type=TIMESTAMP,
    help="2026-01-31T00:00:00+0000. Default: in 11 s.",
)
@click.option("--reason", help="Why, for whoever reads the list of versions.")
@click.option("--key", help="An idempotency key: the same one again publishes nothing new.")
def prices_publish(file: Path, effective_at: datetime | None, reason: str | None, key: str | None) -> None:
    """Publish FILE as the next rate card."""
    from app.cli import prices

    prices.publish(file, effective_at=effective_at, reason=reason, key=key)


@cli.group()
def documents() -> None:
    """Known documents: what clients name by hash. PATH is a directory of *.graphql, or a manifest."""


@documents.command("check")
@click.argument("path", type=PATH, required=False)
@click.pass_context
def documents_check(ctx: click.Context, path: Path | None) -> None:
    """Say whether the server can start with them, or everything that is wrong; exit with 1 if not.

    Default: KNOWN_DOCUMENTS.
    """
    from app.cli import documents

    ctx.exit(documents.check(path))


@documents.command("manifest")
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1, required=True)
@click.pass_context
def documents_manifest(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Print them as a manifest, each by the hash of its text: documents manifest queries/ > manifest.json.

    Of several it makes one: documents manifest release-1.json release-2.json > manifest.json.
    """
    from app.cli import documents

    ctx.exit(documents.manifest(paths))


@cli.group()
def provider_events() -> None:
    """Payment notices that were not handled: what a provider told and nothing came of yet."""


@provider_events.command("list")
def provider_events_list() -> None:
    """Print them, one a line, with the reason: those that wait for a person first."""
    from app.cli import provider_events as notices

    asyncio.run(notices.list_unhandled())


@provider_events.command("replay")
@click.argument("id")
def provider_events_replay(id: str) -> None:
    """Try the notice ID again now, as if it had just come."""
    from app.cli import provider_events as notices

    asyncio.run(notices.replay(id))


@cli.command()
@click.argument("owner", required=False)
@click.option(
    "--heads",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Compare with the last entries kept in this file, then keep the new ones. Store it elsewhere.",
)
@click.pass_context
def verify(ctx: click.Context, owner: str | None, heads: Path | None) -> None:
    """Prove that the books are whole; exit with 1 if not."""
    from app.cli import verify as audit

    if owner and heads:
        raise click.UsageError("--heads is for all accounts: leave OWNER out.")
    ctx.exit(audit.run(owner, heads))


@cli.command()
@click.option("--production", is_flag=True, help="Ask for all that production needs, as the README lists it.")
@click.option("--json", "as_json", is_flag=True, help="Say the same to a program.")
@click.pass_context
def check(ctx: click.Context, *, production: bool, as_json: bool) -> None:
    """Look whether this installation can serve, point by point; exit with 1 if not."""
    from app.cli import check

    ctx.exit(check.run(production=production, as_json=as_json))


if __name__ == "__main__":
    cli(prog_name="python -m app")
