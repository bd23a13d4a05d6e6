"""`python -m app`: help, and the messages of commands that cannot run."""

import errno
import re
import socket
from pathlib import Path

import asyncpg
import jwt
import pytest

from app.cli import verify
from app.cli.error_messages import message_for
from app.db.failures import AccountsLocked
from app.settings import Settings
from app.version import VERSION
from tests.command_line import REPOSITORY, SETTINGS, run_command


@pytest.mark.parametrize(
    "command",
    [
        "serve", "migrate", "schema", "token", "grant", "prices", "verify", "keys", "documents",
        "provider-events", "check",
    ],
)  # fmt: skip
def test_help_lists_the_command_with_a_description(command: str) -> None:
    assert re.search(rf"^  {command} +[A-Z].+\.", run_command("--help").stdout, re.MULTILINE)
    assert run_command(command, "--help").returncode == 0


def test_help_lists_every_setting() -> None:
    listed = run_command("--help").stdout

    assert [name for name, setting in Settings.model_fields.items() if not setting.description] == []
    assert [name for name in SETTINGS if not re.search(rf"^  {name}\b", listed, re.MULTILINE)] == []


@pytest.mark.parametrize(("kind", "roles"), [("user", []), ("operator", ["credits-admin"])])
def test_the_token_command_prints_only_the_token(kind: str, roles: list[str], tmp_path: Path) -> None:
    done = run_command("token", kind, "ada", DATA_DIR=str(tmp_path))

    assert done.stderr == ""
    claims = jwt.decode(done.stdout.removesuffix("\n"), options={"verify_signature": False})
    assert (claims["sub"], claims["roles"]) == ("ada", roles)


def test_a_port_in_use_is_reported_with_another_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("serve", PORT=str(port), DATA_DIR=str(tmp_path))

    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 is in use: try PORT=" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # no database was started


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PORT": "eighty"}, 'PORT must be a whole number (it is "eighty").'),
        ({"WORKERS": "0"}, 'WORKERS must be at least 1 (it is "0").'),
        ({"HOST": "192.0.2.1", "PORT": "0"}, "set HOST and PORT"),
        ({"PORT": "0", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "check DATABASE_URL"),
        ({"PORT": "0", "DATABASE_URL": "mysql://127.0.0.1/nothing"}, "DATABASE_URL: It must be postgresql"),
        (
            {"PORT": "0", "ENVIRONMENT": "production"},
            "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer.",
        ),
        ({"REQUEST_LOG": "some"}, 'REQUEST_LOG must be all, without-charges or none (it is "some").'),
        ({"SWEEP_SECONDS": "nan"}, "SWEEP_SECONDS must be"),
        ({"SWEEP_SECONDS": "0"}, 'SWEEP_SECONDS must be more than 0 (it is "0").'),
        ({"CURRENCY": "usd"}, 'CURRENCY must match the pattern ^[A-Z]{3}$ (it is "usd").'),
        ({"STRIPE_AUTOMATIC_TAX": "perhaps"}, 'STRIPE_AUTOMATIC_TAX must be true or false (it is "perhaps").'),
        ({"JWT_HS256_SECRET": "short"}, "JWT_HS256_SECRET must have at least 32 characters."),
    ],
)
def test_an_invalid_setting_is_named_with_what_to_do(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    done = run_command("serve", **environment, DATA_DIR=str(tmp_path))

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


SANDBOX_IN_PRODUCTION = (
    "The sandbox payment provider gives credits away and does not run in production: set PAYMENT_PROVIDER to one that "
    "takes money."
)


def test_every_problem_of_the_settings_is_reported_before_the_server_starts(tmp_path: Path) -> None:
    done = run_command("serve", PORT="0", ENVIRONMENT="production", DATA_DIR=str(tmp_path))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "Error: JWT_ISSUER is the development issuer: set it to the `iss` of your identity provider's tokens.",
        "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer.",
        "LEDGER_KEY is not set: create one with `openssl rand -hex 32`, and keep a copy elsewhere.",
        "JWKS_URL is not set: production requires the URL of your identity provider's key set.",
        SANDBOX_IN_PRODUCTION,
        "ALLOWED_HOSTS is not set: list the host names that clients use for this server.",
        "`python -m app check --production` checks more, also the database.",
    ]
    assert list(tmp_path.iterdir()) == []


def test_all_settings_that_cannot_be_parsed_are_reported_at_once(tmp_path: Path) -> None:
    done = run_command("serve", WORKERS="many", PORT="99999", RATE_PER_USER="-1", DATA_DIR=str(tmp_path))

    assert done.stderr.splitlines() == [
        'Error: PORT must be at most 65535 (it is "99999").',
        'WORKERS must be a whole number (it is "many").',
        'RATE_PER_USER must be at least 0 (it is "-1").',
    ]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(option: str) -> None:
    assert run_command(option).stdout == f"agent-credits, version {VERSION}\n"


def test_host_and_port_can_be_options(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("serve", "--host", "127.0.0.1", "--port", str(port), PORT="0", DATA_DIR=str(tmp_path))

    assert f"Port {port} of 127.0.0.1 is in use" in done.stderr
    assert "65535" in run_command("serve", "--port", "65536").stderr


def test_a_rate_card_file_is_checked_without_a_database(tmp_path: Path) -> None:
    good, bad = REPOSITORY / "app" / "pricing" / "default_rate_card.json", tmp_path / "card.json"
    bad.write_text('{"blocks": "none"}')

    assert re.search(r"can be published: \d+ blocks, 108 models$", run_command("prices", "check", str(good)).stdout)
    done = run_command("prices", "check", str(bad))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    done = run_command("token", "user", "ada", DATA_DIR=str(file / "data"))

    assert done.returncode == 1
    assert done.stderr == (
        f"Error: The file {file / 'data'} cannot be read or written (Not a directory): check its path, permissions "
        "and the free space.\n"
    )


def test_heads_in_a_missing_directory_are_refused_before_the_verification(tmp_path: Path) -> None:
    done = run_command(
        "verify", "--heads", str(tmp_path / "missing" / "heads"), DATABASE_URL="postgresql://127.0.0.1:1/x"
    )

    assert done.returncode == 2
    assert done.stderr.endswith(f"Error: --heads: the directory {tmp_path / 'missing'} does not exist.\n")


def test_an_interrupted_verification_does_not_say_that_the_ledger_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(owner: str | None, heads: Path | None) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "run", interrupt)

    done = run_command("verify")

    assert (done.returncode, done.stderr) == (3, "Error: The verification was interrupted.\n")


def test_a_full_disk_is_not_reported_as_a_fault_of_the_database() -> None:
    assert message_for(OSError(errno.ENOSPC, "No space left on device")) == (
        "A file cannot be read or written (No space left on device): check its path, permissions and the free space."
    )


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            AccountsLocked([7]),
            "The database stopped the command (another transaction has locked account 7): run it again.",
        ),
        (
            asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
            "The database stopped the command (canceling statement due to statement timeout): run it again.",
        ),
        (
            ConnectionRefusedError("Connect call failed"),
            "The database cannot be reached (Connect call failed): start it, check DATABASE_URL, or unset it.",
        ),
    ],
    ids=["locked", "cancelled", "refused"],
)
def test_a_command_that_the_database_stops_says_why(failure: Exception, message: str) -> None:
    assert message_for(failure) == message
