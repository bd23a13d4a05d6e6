"""The settings, as `--help` lists them."""

from collections.abc import Iterator

from app.settings import Settings


def rows() -> Iterator[tuple[str, str]]:
    """Name, then what it is for and its default."""
    for name, setting in Settings.model_fields.items():
        default = "unset" if setting.default is None else str(setting.default)
        yield name.upper(), f"{setting.description} [{default}]"
