"""The settings, as `--help` lists them."""

from collections.abc import Iterator

from app.settings import Settings


def format_value(default: object) -> str:
    """A default as one would set it."""
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def rows() -> Iterator[tuple[str, str]]:
    """Name, then what it is for and its default."""
    for name, setting in Settings.model_fields.items():
        default = "unset" if setting.default is None else format_value(setting.default)
        yield name.upper(), f"{setting.description} [{default}]"
