"""Secret settings: no text that a process may print or log contains their values."""

import traceback
from typing import get_args

import pytest
from pydantic import SecretStr, ValidationError

from app.settings import Settings
from tests.command_line import run_command

CANARY = "canary0" * 10
SECRETS = {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}
VALUES = {name: f"postgresql://a:{CANARY}@db/c" if name.endswith("database_url") else CANARY for name in SECRETS}


def test_every_setting_that_is_or_contains_a_secret_is_known() -> None:
    words = ("secret", "key", "password", "token", "database_url")

    assert {name for name in Settings.model_fields if any(word in name for word in words)} == SECRETS


def test_the_texts_of_the_settings_do_not_contain_secrets() -> None:
    settings = Settings.model_validate(VALUES)

    assert settings.model_fields_set == SECRETS
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "canary" not in text


@pytest.mark.parametrize("name", ["database_url", "migration_database_url", "jwt_hs256_secret"])
def test_the_traceback_of_an_invalid_setting_does_not_contain_it(name: str) -> None:
    with pytest.raises(ValidationError) as invalid:
        Settings.model_validate({name: CANARY[:6]})

    assert "canary" not in "".join(traceback.format_exception(invalid.value))


@pytest.mark.parametrize("command", [("check",), ("check", "--json"), ("verify",), ("prices", "show"), ("--help",)])
def test_commands_with_invalid_secrets_do_not_print_them(command: tuple[str, ...], tmp_path: object) -> None:
    variables = {name.upper(): CANARY for name in SECRETS}

    done = run_command(*command, DATA_DIR=str(tmp_path), **variables)

    assert "canary" not in done.stdout + done.stderr
