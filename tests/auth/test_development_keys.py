"""Development's own key pair and secret: one per installation, for this user only."""

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

CHECKOUT = Path(app.__file__).parent.parent

OPEN_AND_PRINT = """
import sys, pathlib
from app.auth.development_keys import open_keys
keys = open_keys(pathlib.Path(sys.argv[1]))
print(keys.key_id, keys.secret_for("test").hex())
"""


def in_directory(directory: Path, **more: object) -> Settings:
    return Settings.model_validate({"data_dir": directory, "environment": "development", "jwks_url": None, **more})


@pytest.mark.anyio
async def test_processes_that_start_together_end_up_with_one_pair(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN_AND_PRINT, str(directory), cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    printed = {output.decode() for output, _ in await asyncio.gather(*(process.communicate() for process in processes))}
    keys = load_or_create_keys(directory)
    assert printed == {f"{keys.key_id} {keys.secret_for('test').hex()}\n"}
    assert [path.name for path in directory.iterdir()] == [FILE_NAME]


def test_a_file_that_is_there_already_is_kept(tmp_path: Path) -> None:
    first, second = DevelopmentKeys.generate(), DevelopmentKeys.generate()
    for keys in (first, second):
        write_if_missing(tmp_path / FILE_NAME, keys.to_json())
    assert load_or_create_keys(tmp_path).secret == first.secret
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_file_is_for_this_user_only_from_its_first_moment(tmp_path: Path) -> None:
    write_if_missing(tmp_path / FILE_NAME, DevelopmentKeys.generate().to_json())
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_closed_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(DevelopmentKeys.generate().to_json())
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, logger="app.auth.development_keys"):
        load_or_create_keys(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{}", "null", "[1]", "not json", '{"key_id": "a", "private_key": "b", "secret": ""}']
)
def test_a_damaged_file_stops_the_start_and_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content)
    with pytest.raises(Misconfigured, match="is damaged"):
        load_or_create_keys(tmp_path)
    assert path.read_text() == content


def test_a_weak_secret_counts_as_damage(tmp_path: Path) -> None:
    content = json.loads(DevelopmentKeys.generate().to_json()) | {"secret": "00" * 31}
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(Misconfigured):
        load_or_create_keys(tmp_path)


def test_every_purpose_has_its_own_secret_and_keeps_it(tmp_path: Path) -> None:
    chosen = in_directory(tmp_path)
    ledger, sandbox = (development_secret(purpose, settings=chosen) for purpose in ("ledger", "sandbox"))
    assert len(ledger) == len(sandbox) == 32
    assert ledger != sandbox
    load_or_create_keys.cache_clear()
    assert development_secret("ledger", settings=chosen) == ledger


def test_two_installations_share_nothing(tmp_path: Path) -> None:
    one, two = (in_directory(tmp_path / name) for name in ("one", "two"))
    assert development_secret("ledger", settings=one) != development_secret("ledger", settings=two)
    with pytest.raises(Unauthenticated):
        asyncio.run(build_authenticator(two).authenticate_credential(user_token("alice", settings=one)))


def test_secrets_do_not_show_in_a_log(tmp_path: Path) -> None:
    keys = load_or_create_keys(tmp_path)
    assert keys.secret.hex() not in repr(keys)
    assert repr(keys.secret) not in repr(keys)


def test_the_ready_made_tokens_are_accepted(tmp_path: Path) -> None:
    chosen = in_directory(tmp_path)
    doorway = build_authenticator(chosen)
    alice = asyncio.run(doorway.authenticate_credential(user_token("alice", organisations=["acme"], settings=chosen)))
    carol = asyncio.run(doorway.authenticate_credential(operator_token("carol", settings=chosen)))
    assert (alice.kind, alice.owner_id, alice.organisations) == (CallerKind.USER, "alice", frozenset({"acme"}))
    assert (carol.kind, carol.actor, carol.scopes) == (CallerKind.OPERATOR, "operator:carol", frozenset({Scope.ADMIN}))


def test_a_token_lives_as_long_as_asked(tmp_path: Path) -> None:
    chosen = in_directory(tmp_path)
    with pytest.raises(Unauthenticated, match="expired"):
        asyncio.run(
            build_authenticator(chosen).authenticate_credential(
                user_token("alice", timedelta(seconds=-6), settings=chosen)
            )
        )


@pytest.mark.parametrize("name", ["", "al ice", "a" * 256])
def test_a_token_is_made_only_for_a_name_that_can_be_an_owner(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name must have 1 to 255 visible characters"):
        user_token(name, settings=in_directory(tmp_path))


def test_production_uses_nothing_of_development(tmp_path: Path) -> None:
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


def test_production_without_a_key_set_says_which_setting_is_missing(tmp_path: Path) -> None:
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
def test_a_key_set_is_fetched_only_where_nobody_between_can_change_it(
    tmp_path: Path, environment: str, url: str, accepted: bool
) -> None:
    chosen = in_directory(tmp_path, environment=environment, jwks_url=url)
    if accepted:
        build_authenticator(chosen)
    else:
        with pytest.raises(Misconfigured, match="must be an https address"):
            build_authenticator(chosen)


def test_with_an_identity_provider_the_server_makes_no_tokens(tmp_path: Path) -> None:
    chosen = in_directory(tmp_path, jwks_url="https://id.example/keys")
    with pytest.raises(Misconfigured, match="JWKS_URL is set"):
        user_token("alice", settings=chosen)
    assert len(development_secret("ledger", settings=chosen)) == 32
