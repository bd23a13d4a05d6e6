"""Rate card documents as JSON text: strict parsing, the canonical form for hashing, and the format for people."""

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from app.errors import InvalidRateCard
from app.exact_json import parse_fraction, parse_integer

MAX_TEXT_LENGTH: Final = 4_000_000
_ONE_ENTRY_PER_LINE: Final = ("blocks", "models", "model_priced_blocks", "free_blocks")


def parse_json(text: str) -> Any:
    """Parse a rate card file. Raises: InvalidRateCard: it is not JSON, is too long, or has a name twice in one object.

    The standard parser keeps only the last of two equal names, so a price would be lost without an error.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidRateCard.at("document", f"must be at most {MAX_TEXT_LENGTH:,} characters")
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=parse_integer,
            parse_float=parse_fraction,
        )
    except (ValueError, RecursionError) as fault:  # RecursionError: nested too deeply
        raise InvalidRateCard.at(
            "document", f"is not JSON, or not allowed in a rate card: {str(fault)[:200]}"
        ) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        raise ValueError(f"the same name twice in one object: {', '.join(twice)}")
    return parsed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def canonical_json(value: object) -> bytes:
    """Return the same text for equal documents: sorted names, no spaces, 5.0 as 5, UTF-8."""
    return json.dumps(
        _with_whole_numbers(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def document_hash(value: object) -> bytes:
    """Return the SHA-256 of the canonical form."""
    return sha256(canonical_json(value)).digest()


def _with_whole_numbers(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_whole_numbers(part) for part in value]
    return value


def format_document(document: Mapping[str, Any]) -> str:
    """Return the document as text for people, with one block or model on each line."""
    parts = []
    for name, value in document.items():
        if name in _ONE_ENTRY_PER_LINE and isinstance(value, list) and value:
            lines = ",\n".join(f"    {_compact(entry)}" for entry in value)
            parts.append(f"  {_compact(name)}: [\n{lines}\n  ]")
        else:
            parts.append(f"  {_compact(name)}: {_compact(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def default_rate_card_text() -> str:
    """Return the text of the default rate card, which is installed with the package."""
    return (resources.files("app.pricing") / "default_rate_card.json").read_text(encoding="utf-8")


def default_rate_card() -> dict[str, Any]:
    document: dict[str, Any] = parse_json(default_rate_card_text())
    return document
