"""Words and names that the project no longer uses: none is left in code, tests, documentation or schema.

docs/glossary.md has the terms in use. The changelog is history and may name what was renamed.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.command_line import REPOSITORY

WORDS: Final = {
    "admit": "authenticate",
    "admits": "authenticates",
    "admitted": "authenticated, accepted",
    "book": "account state, ledger",
    "burning": "burn order",
    "coalesced": "group commit",
    "coalescing": "group commit",
    "doorway": "authenticator",
    "drawer": "",
    "envelope": "budget",
    "envelopes": "budgets",
    "fingerprint": "request hash",
    "furnish": "build",
    "furnished": "built",
    "hear": "receive",
    "heard": "received",
    "hears": "receives",
    "house": "application state",
    "kindly": "",
    "lane": "posting connection",
    "lanes": "posting connections",
    "lapse": "expiry",
    "lapsed": "expired",
    "lapses": "expires",
    "lot": "grant",
    "lots": "grants",
    "menagerie": "",
    "notice": "notification, provider event",
    "noticeboard": "notifications",
    "notices": "notifications, provider events",
    "punctual": "request deadline",
    "refill": "auto top-up",
    "refills": "auto top-ups",
    "sight": "owner scope",
    "storey": "layer",
    "storeys": "layers",
    "strike": "failure",
    "strikes": "failures",
    "tell": "send, report",
    "tells": "sends, reports",
    "told": "sent, reported",
    "trail": "audit log",
    "viewer": "caller",
    "viewers": "callers",
}
"""Words, also as parts of identifiers (`told_of`, `EnvelopeLapsed`), and what to write instead."""

PHRASES: Final = {
    r"(?i)landing[ _-]?reserve": "closing reserve",
    r"(?i)giving_back": "refunds, reversal",
    r"\bmove_on\b": "bump_version",
    r"(?i)\bknown[ -]documents?\b": "persisted document",
    r"\bprint_\b": "request_hash",
    r"\bLACKED\b|\blacked\b": "shortfall",
    r"skipped[ _-]?ticks?\b": "skipped start",
    r"python -m app audit\b": "python -m app verify",
    r"\b(?:PLANS|FREE_DOCUMENTS|STREAMS_PER_USER|LOW_BALANCE_AT)\b": "see docs/configuration.md",
    r"\bclass (?:Gate|Ring|Trail|Lot|Book|Shared)\b": "see docs/glossary.md",
    r"\bdef (?:hear|strike|enter|burning)\b": "see docs/glossary.md",
}
"""Names that are common words otherwise, as regular expressions."""

MODULES: Final = {
    "acts", "cases", "doorway", "envelopes", "gate", "hosts", "lines", "newest", "notices", "noting", "plain",
    "punctual", "reach", "ring", "sight", "steady", "told", "trail", "traits", "wire",
}  # fmt: skip
"""Names of files and folders that said nothing about their content."""

HISTORY: Final = {"CHANGELOG.md", "LICENSE", "tests/test_retired_words.py"}
FOREIGN: Final = ("requirements.lock", "package-lock.json", "LICENCE.txt", "stripe_openapi_excerpt.json")
"""Texts of others."""

ANY = re.compile("|".join([*WORDS, *(phrase.removeprefix("(?i)") for phrase in PHRASES)]), re.IGNORECASE)
"""Finds the lines that can contain one; much faster than to split every line into words."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
ALLOWED = re.compile(
    r"(?i)\ba lot of\b|\b(?:told|tells?)( \w+)? apart\b|card[._-]?fingerprint|\"fingerprint\"|RAISE NOTICE"
)
"""Ordinary English, Stripe's field of that name, PostgreSQL's severity."""


def test_no_retired_word_is_used() -> None:
    assert [
        f"{name}:{found}"
        for name in tracked_files()
        if name not in HISTORY and not name.endswith(FOREIGN)
        for found in retired_words((REPOSITORY / name).read_text(errors="replace"))
    ] == []


def test_no_file_has_a_retired_name() -> None:
    parts = {
        name: {part.removeprefix("test_") for part in Path(name).with_suffix("").parts} for name in tracked_files()
    }
    assert {name: MODULES & of_path for name, of_path in parts.items() if MODULES & of_path} == {}


def tracked_files() -> list[str]:
    git = shutil.which("git")
    assert git is not None
    listed = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def retired_words(text: str) -> Iterator[str]:
    """`line: found (what to write instead)`."""
    for number, line in enumerate(ALLOWED.sub("", text).splitlines(), start=1):
        if not ANY.search(line):
            continue
        for word in WORD.findall(line):
            if (instead := WORDS.get(word.lower())) is not None:
                yield f"{number}: {word} ({instead})"
        for phrase, instead in PHRASES.items():
            if found := re.search(phrase, line):
                yield f"{number}: {found[0]} ({instead})"


def test_words_are_found_in_prose_and_in_identifiers() -> None:
    for text in (
        "What was told",
        "def told_of():",
        "class EnvelopeLapsed:",
        "LANES=2",
        "landingReserve",
        "a landing reserve",
    ):
        assert list(retired_words(text)) != [], text
    for text in ("a lot of", "KNOWN_DOCUMENTS", "bookkeeping", "a plane", "foretold"):
        assert list(retired_words(text)) == [], text
