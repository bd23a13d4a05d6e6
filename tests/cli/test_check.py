"""`python -m app check`, run as somebody runs it, and the README's checklist, which it verifies."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli.checklist.runner import CHECKS
from app.db import embedded_postgres
from tests.auth.token_issuer import key_set, serving
from tests.command_line import REPOSITORY, run_command, temporary_directory
from tests.insecure_postgres import misconfigured_postgres

NAMES = [point.name for point in CHECKS]
OF_PRODUCTION = [point.name for point in CHECKS if not point.in_development]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def migrated(place: Path) -> Iterator[embedded_postgres.EmbeddedPostgres]:
    with embedded_postgres.start(place / "postgres") as server:
        done = run_command("migrate", DATABASE_URL=server.application_url, MIGRATION_DATABASE_URL=server.url)
        assert done.returncode == 0, done.stderr
        yield server


def states(printed: str) -> dict[str, str]:
    """By the points' names, in the order of the lines."""
    return {name: state for state, name in re.findall(r"^(OK|FAULT|-) +([a-z-]+)  ", printed, re.MULTILINE)}


def test_an_installation_of_production_passes_in_every_point(
    migrated: embedded_postgres.EmbeddedPostgres, tmp_path: Path
) -> None:
    (tmp_path / "balance.graphql").write_text("query Balance { account { balance { available } } }")
    with serving(key_set(one=Ed25519PrivateKey.generate())) as issuer:
        production = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": migrated.application_url,
            "LEDGER_KEY": secrets.token_hex(32),
            "JWKS_URL": issuer.url,
            "JWT_ISSUER": "https://id.example.com/",
            "JWT_AUDIENCE": "credits",
            "PAYMENT_PROVIDER": "stripe",
            "STRIPE_SECRET_KEY": f"sk_live_{secrets.token_hex(16)}",
            "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(16)}",
            "PUBLIC_URL": "https://credits.example.com",
            "ALLOWED_HOSTS": "credits.example.com",
            "ALLOWED_ORIGINS": "https://app.example.com",
            "KNOWN_DOCUMENTS": str(tmp_path),
        }
        assert run_command("keys", "create", "executor", "--scope", "charge", **production).returncode == 0
        told = run_command("check", "--production", **production)

    assert (told.returncode, told.stderr) == (0, "")
    assert [line.split()[:2] for line in told.stdout.splitlines()[:-2]] == [["OK", name] for name in NAMES]
    assert told.stdout.endswith(f"\n{len(NAMES)} points: {len(NAMES)} hold, 0 faults, 0 not looked at\n")


def test_every_point_is_looked_at_whatever_the_others_gave_and_no_secret_is_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with misconfigured_postgres(place / "careless", monkeypatch) as found, serving({"keys": []}) as issuer:
        careless = {
            "WORKERS": "canary-of-a-number",
            "READ_CONNECTIONS": "50",
            "DATABASE_URL": (found.network_url or found.url).replace("postgres:", "postgres:canary"),
            "MIGRATION_DATABASE_URL": "postgresql://canaryowner:canaryowner@127.0.0.1/credits",
            "LEDGER_KEY": "ca" * 32,
            "JWKS_URL": issuer.url.replace("//", "//canaryuser:canaryword@"),
            "JWT_HS256_SECRET": "canary-short",
            "PAYMENT_PROVIDER": "stripe",
            "STRIPE_SECRET_KEY": "sk_test_canary1",
            "STRIPE_WEBHOOK_SECRET": "canary2",
            "PUBLIC_URL": "http://canaryuser:canaryword@credits.example.com",
            "ALLOWED_HOSTS": "*",
            "ALLOWED_ORIGINS": "http://app.example.com",
            "FORWARDED_ALLOW_IPS": "*",
            "LOG_FORMAT": "text",
            "RATE_PER_ADDRESS": "0",
            "KNOWN_DOCUMENTS": "no/such/directory",
        }
        told = run_command("check", "--production", **careless)

    assert told.returncode == 1
    found_states = states(told.stdout)
    assert list(found_states) == NAMES
    assert [name for name, state in found_states.items() if state == "-"] == ["rate-card", "service-keys"]
    fine = {"database", "postgresql", "clock", "versions"} | (set() if found.network_url else {"encryption"})
    assert {name for name, state in found_states.items() if state == "OK"} == fine

    everything = told.stdout + told.stderr
    assert "WORKERS: Input should be a valid integer" in everything  # whose value is no secret, and is repeated
    shown = everything.replace("'canary-of-a-number'", "")
    assert "canary" not in shown
    assert "caca" not in shown


def test_without_a_database_the_points_that_need_it_are_not_looked_at() -> None:
    told = run_command("check", "--production", DATABASE_URL="postgresql://credits:canary@127.0.0.1:1/credits")

    assert told.returncode == 1
    found = states(told.stdout)
    assert found["database"] == "FAULT"
    assert [name for name, state in found.items() if state == "-"] == [
        "key-set", *NAMES[NAMES.index("database") + 1 :]
    ]  # fmt: skip
    assert "canary" not in told.stdout + told.stderr


def test_development_starts_its_own_database_and_says_what_it_lacks(place: Path) -> None:
    told = run_command("check", DATA_DIR=str(place / "development"))

    assert told.returncode == 1
    assert [name for name, state in states(told.stdout).items() if state == "FAULT"] == ["migrations"]


def test_development_passes_and_says_to_a_program_what_only_production_asks_for(
    migrated: embedded_postgres.EmbeddedPostgres, tmp_path: Path
) -> None:
    told = run_command("check", "--json", DATABASE_URL=migrated.url, DATA_DIR=str(tmp_path))

    assert (told.returncode, told.stderr) == (0, "")
    data = json.loads(told.stdout)
    assert (data["production"], data["passed"]) == (False, True)
    assert [point["point"] for point in data["points"]] == NAMES
    skipped = ["not looked at: only production asks for it"]
    assert [point["point"] for point in data["points"] if point["told"] == skipped] == OF_PRODUCTION
    others = [point for point in data["points"] if point["point"] not in OF_PRODUCTION]
    assert {point["state"] for point in others if point["point"] != "key-set"} == {"OK"}
    [no_key_set] = [point for point in others if point["point"] == "key-set"]
    assert no_key_set == {"point": "key-set", "state": "NOT_LOOKED_AT", "told": ["not looked at: JWKS_URL is not set"]}


def test_a_wrong_option_is_a_matter_of_usage() -> None:
    told = run_command("check", "--prodction")

    assert told.returncode == 2
    assert "No such option" in told.stderr


def test_the_readmes_checklist_is_the_commands_points_in_their_order() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    [chapter] = re.findall(r"^### Production, point by point\n(.*?)(?=^##)", readme, re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\| `([a-z-]+)` \|", chapter, re.MULTILINE) == NAMES
    assert "python -m app check --production" in chapter
