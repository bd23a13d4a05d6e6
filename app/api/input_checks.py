"""Checks of inputs that are of the right type and still no ids, keys or names: refused before anything is decided."""

from collections.abc import Iterable

from app.credits import check_key
from app.errors import BadRequest, InvalidInput


def check_ids(**ids: str | None) -> None:
    """Ids, keys and names: 1 to 255 visible characters each; null is left to whoever takes it. Raises: BadRequest."""
    for path, text in ids.items():
        if text is not None:
            try:
                check_key(text, path=path)
            except InvalidInput as refusal:
                raise BadRequest(refusal.message) from None


def check_list_length(items: Iterable[object], *, name: str, limit: int) -> None:
    """Raises: BadRequest: empty, or more than `limit`."""
    count = sum(1 for _ in items)
    if not 1 <= count <= limit:
        raise BadRequest(f"{name} must have 1 to {limit:,} items; it has {count:,}.")
