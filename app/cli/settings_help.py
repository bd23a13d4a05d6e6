"""The list of settings for `--help`."""

from collections.abc import Iterator

from app.settings import Settings


def format_value(value: object) -> str:
    """Format a default as the value of an environment variable."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def rows() -> Iterator[tuple[str, str]]:
    """Yield the name of each setting, and its description with its default."""
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else format_value(field.default)
        yield name.upper(), f"{field.description} [{default}]"
