"""`python -m app`: the command line. Each command imports its module when it runs, so that `--help` is fast."""

import asyncio
from pathlib import Path
from typing import Any

import click

from app.cli import subcommands
from app.cli.command_group import INSTANT, CommandGroup, CouldNotRun, WrongUse
from app.version import VERSION


@click.version_option(VERSION, "--version", "-V", prog_name="agent-credits")
@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Billing backend for AI agent platforms: prepaid credits."""


@cli.command()
@click.option("--host", help="Address to listen on. Default: HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: a free one. Default: PORT.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Start the server.

    Also starts a PostgreSQL if DATABASE_URL is not set.
    """
    from app.cli import serve

    ctx.exit(serve.run(host=host, port=port))


@cli.command()
def migrate() -> None:
    """Apply migrations.

    Also grants the application's role its privileges.
    """
    from app.cli import connection

    asyncio.run(connection.run_migrate())


@cli.command()
def schema() -> None:
    """Print the GraphQL schema."""
    from app.cli import reference

    reference.print_schema()


@cli.command()
@click.argument("page", type=click.Choice(["settings", "api", "events"]))
def reference(page: str) -> None:
    """Print a generated page of the documentation, as Markdown."""
    from app.cli import reference

    reference.run(page)


@cli.command()
@click.argument("kind", type=click.Choice(["user", "service", "operator"]))
@click.argument("name")
def token(kind: Any, name: str) -> None:
    """Print a development token.

    Example: token user alice
    """
    from app.cli import token

    asyncio.run(token.run(kind, name))


@cli.command("ledger-keys")
def ledger_keys() -> None:
    """List the ids of the ledger keys: which one signs, which ones verify, which ones are not configured."""
    from app.cli import verify

    asyncio.run(verify.list_ledger_keys())


@cli.command()
@click.argument("owner")
def account(owner: str) -> None:
    """Show the account of OWNER: its figures, and why its tasks are stopped.

    Also shows auto top-up, open holds and disputes, the newest entries and the unread notifications.
    """
    from app.cli import accounts

    asyncio.run(accounts.show(owner))


@cli.command()
@click.argument("owner")
@click.option("--reason", required=True, help="The reason, for the audit log.")
@click.option(
    "--heads",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file of `verify --heads`: the newest entry of the account is replaced in it.",
)
def erase(owner: str, reason: str, heads: Path | None) -> None:
    """Replace the id of OWNER by a pseudonym everywhere, with the role of MIGRATION_DATABASE_URL.

    Amounts stay as they are. It cannot be undone. Example: erase alice --reason "request 17" --heads heads.txt
    """
    from app.cli import accounts

    asyncio.run(accounts.erase(owner, reason=reason, heads_file=heads))


@cli.command()
@click.argument("owner")
@click.argument("credits", type=int)
@click.option("--reason", required=True, help="The reason, which the entry shows.")
@click.option("--source", type=click.Choice(["PROMOTIONAL", "PURCHASED", "ADJUSTMENT"]), default="PROMOTIONAL")
@click.option("--priority", type=int, default=0, help="From -1000 to 1000. Grants of lower priority are spent first.")
@click.option("--expires-at", type=INSTANT, help="2026-01-31T00:00:00Z. Default: never.")
@click.option("--key", help="Idempotency key: repeating it grants nothing more. Default: a new one.")
def grant(owner: str, credits: int, **options: Any) -> None:
    """Grant credits to an account.

    Example: grant alice 1000 --reason welcome
    """
    from app.cli import accounts

    asyncio.run(accounts.grant(owner, credits, **options))


@cli.command()
@click.argument("owner", required=False)
@click.option(
    "--heads",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the newest entry of each account: check that they still exist, then save the new ones.",
)
@click.pass_context
def verify(ctx: click.Context, owner: str | None, heads: Path | None) -> None:
    """Verify the ledger, or the account of OWNER.

    Exits with 0 if it is intact, 1 if it is not, 2 if an argument is wrong (OWNER has no account, too), and 3 if it
    could not run.
    """
    from app.cli import verify

    if owner is not None and heads:
        raise click.UsageError("--heads covers all accounts: leave out OWNER.")
    if heads and not heads.parent.is_dir():  # found now, not after a verification that may take hours
        raise click.UsageError(f"--heads: the directory {heads.parent} does not exist.")
    try:
        status = verify.run(owner, heads)
    except KeyboardInterrupt:  # click would exit with 1
        raise CouldNotRun("The verification was interrupted.") from None
    except Exception as error:
        raise _verify_failure(error) from error
    ctx.exit(status)


def _verify_failure(error: Exception) -> click.ClickException:
    """Return how `verify` fails. Exit code 1 is only for a ledger that was found not to be intact."""
    from app.cli import error_messages
    from app.errors import InvalidInput

    message = (
        error_messages.message_for(error) or f"The ledger could not be verified: {str(error) or type(error).__name__}."
    )
    return WrongUse(message) if isinstance(error, InvalidInput) else CouldNotRun(message)


@cli.command()
@click.option("--production", is_flag=True, help="Check all requirements of production.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(ctx: click.Context, *, production: bool, as_json: bool) -> None:
    """Check the installation; exit with 1 if a check fails."""
    from app.cli import check

    ctx.exit(check.run(production=production, as_json=as_json))


for group in (
    subcommands.keys, subcommands.prices, subcommands.documents, subcommands.provider_events, subcommands.webhooks,
):  # fmt: skip
    cli.add_command(group)

if __name__ == "__main__":
    cli(prog_name="python -m app")
