"""The click group of all commands, a parameter type for instants, and exceptions with exit codes."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from app.wording import quote_value


class InstantType(click.ParamType[datetime]):
    """An instant. It is parsed in the same way as instants of the API."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        from app.instants import InvalidInstant, parse_instant

        try:
            return parse_instant(value)
        except InvalidInstant as error:
            self.fail(f"{quote_value(value)} {error}.", param, ctx)


INSTANT = InstantType()


class WrongUse(click.ClickException):
    """An argument is wrong."""

    exit_code = 2


class CouldNotRun(click.ClickException):
    """The command could not do its work, so its result is unknown."""

    exit_code = 3


class CommandGroup(click.Group):
    """Lists the settings in `--help`, and prints expected exceptions as messages that say what to do."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Settings: environment variables, with their [default]"):
            formatter.write_dl(list(_setting_rows()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from app.cli import error_messages

            if (message := error_messages.message_for(error)) is None:
                raise
            raise click.ClickException(message) from error


def format_value(value: object) -> str:
    """Format a default as the value of an environment variable."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _setting_rows() -> Iterator[tuple[str, str]]:
    """Yield the name of each setting, and its description with its default."""
    from app.settings import Settings

    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else format_value(field.default)
        yield name.upper(), f"{field.description} [{default}]"
