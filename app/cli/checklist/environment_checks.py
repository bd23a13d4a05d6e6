"""Checks of the installed packages and of the identity provider's key set."""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx

from app.auth.jwks import FETCH_ERRORS, fetch_keys
from app.cli.checklist.results import CheckFailed, CheckSkipped, Installation, fail_if

MINIMUM_PYTHON: Final = (3, 11)
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_INSTALL: Final = "run `python -m pip install --require-hashes -r requirements.lock` in this environment"


async def package_versions(installation: Installation) -> str:
    """Python is recent enough, and every package has the version in the lock file."""
    python = ".".join(map(str, sys.version_info[:3]))
    problems = []
    if sys.version_info[:2] < MINIMUM_PYTHON:
        problems.append(f"Python is {python}: install 3.11 or newer.")
    pinned = _pinned_versions(installation.lock_file)
    if not pinned:
        problems.append("There is no requirements.lock beside the application: install from a complete checkout.")
    fail_if([*problems, *_different_versions(pinned)])
    return f"Python {python}; {len(pinned)} packages as in requirements.lock"


def _pinned_versions(lock_file: Path) -> Mapping[str, str]:
    return dict(_PINNED.findall(lock_file.read_text(encoding="utf-8"))) if lock_file.is_file() else {}


def _different_versions(pinned: Mapping[str, str]) -> Iterator[str]:
    for name, version in pinned.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} {version} is not installed: {_INSTALL}."
            continue
        if installed != version:
            yield f"{name} is {installed}, requirements.lock has {version}: {_INSTALL}."


async def jwks(installation: Installation) -> str:
    """The identity provider's key set can be fetched from here and has a usable key."""
    url = installation.settings.jwks_url
    if url is None and installation.settings.jwt_hs256_secret is not None:
        return "not needed: tokens are signed with a shared secret"
    if url is None:
        raise CheckSkipped("JWKS_URL is not set")
    try:
        keys = await fetch_keys(url)
    except FETCH_ERRORS as error:
        raise CheckFailed(_describe_fetch_error(error)) from None
    if len(keys) > 1 and any(key.key_id is None for key in keys):
        raise CheckFailed("JWKS_URL has several keys, and one without `kid`, which no token can name: add a `kid`.")
    algorithms = sorted({algorithm for key in keys for algorithm in key.algorithms})
    return f"usable keys: {len(keys)} ({', '.join(algorithms)})"


def _describe_fetch_error(error: Exception) -> str:
    """Describe an error without the text of the exception, which may contain the URL and so a password."""
    match error:
        case httpx.HTTPStatusError():
            return f"JWKS_URL responds with {error.response.status_code}: check the URL. Redirects are not followed."
        case httpx.InvalidURL():
            return "JWKS_URL is not a URL: write https://HOST/PATH."
        case httpx.HTTPError() | TimeoutError():
            return "JWKS_URL cannot be reached from here: check the URL, DNS, firewall and certificate."
        case _:
            return (
                "JWKS_URL has no key set with a signing key for RS256, PS256, ES256 or EdDSA: it must be your identity "
                "provider's jwks_uri."
            )
