"""Points about what stands around the server: the packages it runs on, and who signs its users' tokens."""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx

from app.auth.jwks import FETCH_ERRORS, fetch_keys
from app.cli.checklist.results import CheckResult, Installation, failed_or_passed, passed, skipped

MINIMUM_PYTHON: Final = (3, 11)
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_INSTALL: Final = "run `python -m pip install --require-hashes -r requirements.lock` in this environment"


async def package_versions(here: Installation) -> CheckResult:
    """Python is new enough, and every package is of the version that the lock file pins."""
    running = ".".join(map(str, sys.version_info[:3]))
    faults = []
    if sys.version_info[:2] < MINIMUM_PYTHON:
        faults.append(f"Python is {running}: install 3.11 or newer.")
    pinned = _pinned(here.lock_file)
    if not pinned:
        faults.append("There is no requirements.lock beside the application: install from a whole checkout.")
    faults += _other_versions(pinned)
    return failed_or_passed(faults, f"Python {running}; {len(pinned)} packages as in requirements.lock")


def _pinned(lock: Path) -> Mapping[str, str]:
    return dict(_PINNED.findall(lock.read_text(encoding="utf-8"))) if lock.is_file() else {}


def _other_versions(pinned: Mapping[str, str]) -> Iterator[str]:
    for name, version in pinned.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} {version} is not installed: {_INSTALL}."
            continue
        if found != version:
            yield f"{name} is {found}, and requirements.lock says {version}: {_INSTALL}."


async def jwks(here: Installation) -> CheckResult:
    """The identity provider's key set can be fetched from here, and has a key that can be used."""
    url = here.settings.jwks_url
    if url is None and here.settings.jwt_hs256_secret is not None:
        return passed("not needed: tokens are signed by a shared secret")
    if url is None:
        return skipped("JWKS_URL is not set")
    try:
        keys = await fetch_keys(url)
    except FETCH_ERRORS as fault:
        return failed_or_passed([_not_fetched(fault)], "")
    algorithms = sorted({algorithm for key in keys for algorithm in key.algorithms})
    if len(keys) > 1 and any(key.key_id is None for key in keys):
        return failed_or_passed(
            ["JWKS_URL has several keys, and one without `kid`: no token can name it. Give each one."], ""
        )
    return passed(f"keys that can be used: {len(keys)} ({', '.join(algorithms)})")


def _not_fetched(fault: Exception) -> str:
    """Without the fault's own words: they may hold the address, and an address may hold a password."""
    match fault:
        case httpx.HTTPStatusError():
            return f"JWKS_URL answers with {fault.response.status_code}: check the address, it must answer itself."
        case httpx.InvalidURL():
            return "JWKS_URL is no address: write https://HOST/PATH."
        case httpx.HTTPError() | TimeoutError():
            return "JWKS_URL cannot be reached from here: check the address, name service, firewall and certificate."
        case _:
            return (
                "JWKS_URL answers, but with no key set that has a signing key of RS256, PS256, ES256 or EdDSA: "
                "it must be your identity provider's jwks_uri."
            )
