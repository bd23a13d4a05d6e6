"""Checks of ids and list lengths in arguments. Resolvers make them before they call a domain package."""

from collections.abc import Sequence

from strawberry.utils.str_converters import to_camel_case

from app.credits import check_key
from app.errors import BadRequest, InvalidInput


def check_ids(**ids: str | None) -> None:
    """Check that ids and names have 1 to 255 visible characters. Arguments are named by their path; None is valid.

    Raises: BadRequest: names the path.
    """
    for path, text in ids.items():
        if text is not None:
            try:
                check_key(text, path=path)
            except InvalidInput as error:
                raise BadRequest(error.message) from None


def check_input_ids(input: object, *names: str) -> None:
    """Check fields of a mutation's `input` like `check_ids`."""
    check_ids(**{f"input.{to_camel_case(name)}": getattr(input, name) for name in names})


def check_list_length(items: Sequence[object], *, name: str, limit: int) -> None:
    """Raises: BadRequest: the list is empty or has more than `limit` items."""
    if not 1 <= len(items) <= limit:
        raise BadRequest(f"{name} must have 1 to {limit:,} items; it has {len(items):,}.")
