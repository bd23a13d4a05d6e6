"""The development key pair and secret: one per installation, readable by this user only."""

import asyncio
import json
import logging
import stat
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import app
from app.auth.authenticator import build_authenticator
from app.auth.caller import CallerKind, Scope
from app.auth.development_keys import (
    FILE_NAME,
    DevelopmentKeys,
    development_secret,
    installation_keys,
    load_or_create_keys,
    operator_token,
    user_token,
    write_if_missing,
)
from app.errors import InvalidInput, Misconfigured, Unauthenticated
from app.settings import Settings

REPOSITORY = Path(app.__file__).parent.parent

LOAD_AND_PRINT = """
import sys, pathlib
from app.auth.development_keys import load_or_create_keys
keys = load_or_create_keys(pathlib.Path(sys.argv[1]))
print(keys.key_id, keys.secret_for("test").hex())
"""


def in_directory(directory: Path, **more: object) -> Settings:
    return Settings.model_validate({"data_dir": directory, "environment": "development", "jwks_url": None, **more})


@pytest.mark.anyio
async def test_processes_that_start_together_share_one_key_pair(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", LOAD_AND_PRINT, str(directory), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    printed = {output.decode() for output, _ in await asyncio.gather(*(process.communicate() for process in processes))}
    keys = load_or_create_keys(directory)
    assert printed == {f"{keys.key_id} {keys.secret_for('test').hex()}\n"}
    assert [path.name for path in directory.iterdir()] == [FILE_NAME]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    first, second = DevelopmentKeys.generate(), DevelopmentKeys.generate()
    for keys in (first, second):
        write_if_missing(tmp_path / FILE_NAME, keys.to_json())
    assert load_or_create_keys(tmp_path).secret == first.secret
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_file_is_created_readable_by_this_user_only(tmp_path: Path) -> None:
    write_if_missing(tmp_path / FILE_NAME, DevelopmentKeys.generate().to_json())
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_restricted_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(DevelopmentKeys.generate().to_json())
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, logger="app.auth.development_keys"):
        load_or_create_keys(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "was readable by other users" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{}", "null", "[1]", "not json", '{"key_id": "a", "private_key": "b", "secret": ""}']
)
def test_a_damaged_file_prevents_the_start_and_is_not_changed(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content)
    with pytest.raises(Misconfigured, match="is damaged"):
        load_or_create_keys(tmp_path)
    assert path.read_text() == content


def test_a_file_with_a_short_secret_is_damaged(tmp_path: Path) -> None:
    content = json.loads(DevelopmentKeys.generate().to_json()) | {"secret": "00" * 31}
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(Misconfigured):
        load_or_create_keys(tmp_path)


def test_every_purpose_has_its_own_constant_secret(tmp_path: Path) -> None:
    settings = in_directory(tmp_path)
    ledger, sandbox = (development_secret(purpose, settings=settings) for purpose in ("ledger", "sandbox"))
    assert len(ledger) == len(sandbox) == 32
    assert ledger != sandbox
    load_or_create_keys.cache_clear()
    assert development_secret("ledger", settings=settings) == ledger


def test_two_installations_have_different_keys(tmp_path: Path) -> None:
    one, two = (in_directory(tmp_path / name) for name in ("one", "two"))
    assert development_secret("ledger", settings=one) != development_secret("ledger", settings=two)
    with pytest.raises(Unauthenticated):
        asyncio.run(build_authenticator(two).authenticate_credential(user_token("alice", settings=one)))


def test_the_repr_contains_no_secret(tmp_path: Path) -> None:
    keys = load_or_create_keys(tmp_path)
    assert keys.secret.hex() not in repr(keys)
    assert repr(keys.secret) not in repr(keys)


def test_development_tokens_are_accepted(tmp_path: Path) -> None:
    settings = in_directory(tmp_path)
    authenticator = build_authenticator(settings)
    alice = asyncio.run(
        authenticator.authenticate_credential(user_token("alice", organisations=["acme"], settings=settings))
    )
    carol = asyncio.run(authenticator.authenticate_credential(operator_token("carol", settings=settings)))
    assert (alice.kind, alice.owner_id, alice.organisations) == (CallerKind.USER, "alice", frozenset({"acme"}))
    assert (carol.kind, carol.actor, carol.scopes) == (CallerKind.OPERATOR, "operator:carol", frozenset({Scope.ADMIN}))


def test_a_token_has_the_requested_lifetime(tmp_path: Path) -> None:
    settings = in_directory(tmp_path)
    with pytest.raises(Unauthenticated, match="expired"):
        asyncio.run(
            build_authenticator(settings).authenticate_credential(
                user_token("alice", timedelta(seconds=-6), settings=settings)
            )
        )


@pytest.mark.parametrize("name", ["", "al ice", "a" * 256])
def test_a_token_needs_a_valid_owner_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name must have 1 to 255 visible characters"):
        user_token(name, settings=in_directory(tmp_path))


def test_production_uses_no_development_keys(tmp_path: Path) -> None:
    production = in_directory(tmp_path, environment="production")
    for refused in (
        lambda: build_authenticator(production),
        lambda: installation_keys(production),
        lambda: development_secret("ledger", settings=production),
        lambda: user_token("alice", settings=production),
        lambda: operator_token("carol", settings=production),
    ):
        with pytest.raises(Misconfigured):
            refused()
    assert list(tmp_path.iterdir()) == []


def test_production_without_a_key_set_names_the_missing_setting(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="JWKS_URL is not set"):
        build_authenticator(in_directory(tmp_path, environment="production"))


@pytest.mark.parametrize(
    ("environment", "url", "accepted"),
    [
        ("production", "https://id.example/keys", True),
        ("production", "http://127.0.0.1:9000/keys", True),
        ("production", "http://id.example/keys", False),
        ("production", "http://localhost.example/keys", False),
        ("production", "id.example/keys", False),
        ("development", "http://id.example/keys", True),
        ("development", "file:///keys", False),
    ],
)
def test_a_key_set_url_must_be_https_or_local(tmp_path: Path, environment: str, url: str, accepted: bool) -> None:
    settings = in_directory(tmp_path, environment=environment, jwks_url=url)
    if accepted:
        build_authenticator(settings)
    else:
        with pytest.raises(Misconfigured, match="must be an https URL"):
            build_authenticator(settings)


def test_with_an_identity_provider_the_server_issues_no_tokens(tmp_path: Path) -> None:
    settings = in_directory(tmp_path, jwks_url="https://id.example/keys")
    with pytest.raises(Misconfigured, match="JWKS_URL is set"):
        user_token("alice", settings=settings)
    assert len(development_secret("ledger", settings=settings)) == 32
