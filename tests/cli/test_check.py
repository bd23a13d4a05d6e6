"""The command check: output and exit status."""

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
from tests.command_line import run_command, temporary_directory
from tests.insecure_postgres import misconfigured_postgres

NAMES = [check.name for check in CHECKS]
PRODUCTION_ONLY = [check.name for check in CHECKS if not check.in_development]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


@pytest.fixture(scope="module")
def migrated(directory: Path) -> Iterator[embedded_postgres.EmbeddedPostgres]:
    with embedded_postgres.start(directory / "postgres") as server:
        done = run_command("migrate", DATABASE_URL=server.application_url, MIGRATION_DATABASE_URL=server.url)
        assert done.returncode == 0, done.stderr
        yield server


def statuses(output: str) -> dict[str, str]:
    """By name, in the order of the lines."""
    return {name: status for status, name in re.findall(r"^(OK|FAILED|SKIPPED) +([a-z-]+)  ", output, re.MULTILINE)}


def test_a_good_production_installation_passes_every_check(
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
        done = run_command("check", "--production", **production)

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-2]] == [["OK", name] for name in NAMES]
    assert done.stdout.endswith(f"\n{len(NAMES)} checks: {len(NAMES)} passed, 0 failed, 0 skipped\n")


def test_every_check_runs_whatever_the_others_return_and_no_secret_is_printed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with misconfigured_postgres(directory / "insecure", monkeypatch) as postgres, serving({"keys": []}) as issuer:
        insecure = {
            "WORKERS": "canary-of-a-number",
            "READ_CONNECTIONS": "50",
            "DATABASE_URL": (postgres.network_url or postgres.url).replace("postgres:", "postgres:canary"),
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
        done = run_command("check", "--production", **insecure)

    assert done.returncode == 1
    found = statuses(done.stdout)
    assert list(found) == NAMES
    assert [name for name, status in found.items() if status == "SKIPPED"] == [
        "ledger-keys",
        "rate-card",
        "service-keys",
    ]
    passed = {"database", "postgresql", "clock", "versions"} | (set() if postgres.network_url else {"encryption"})
    assert {name for name, status in found.items() if status == "OK"} == passed

    output = done.stdout + done.stderr
    assert "WORKERS must be a whole number" in output  # not a secret, so its value is printed
    output = output.replace('"canary-of-a-number"', "")
    assert "canary" not in output
    assert "caca" not in output


def test_without_a_database_the_checks_that_require_it_are_skipped() -> None:
    done = run_command("check", "--production", DATABASE_URL="postgresql://credits:canary@127.0.0.1:1/credits")

    assert done.returncode == 1
    found = statuses(done.stdout)
    assert found["database"] == "FAILED"
    assert [name for name, status in found.items() if status == "SKIPPED"] == [
        "jwks", *NAMES[NAMES.index("database") + 1 :]
    ]  # fmt: skip
    assert "canary" not in done.stdout + done.stderr


def test_development_starts_its_database_and_reports_pending_migrations(directory: Path) -> None:
    done = run_command("check", DATA_DIR=str(directory / "development"))

    assert done.returncode == 1
    assert [name for name, status in statuses(done.stdout).items() if status == "FAILED"] == ["migrations"]


def test_development_passes_and_skips_what_applies_to_production_only(
    migrated: embedded_postgres.EmbeddedPostgres, tmp_path: Path
) -> None:
    done = run_command("check", "--json", DATABASE_URL=migrated.url, DATA_DIR=str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert (data["production"], data["passed"]) == (False, True)
    checks = {check["name"]: check for check in data["checks"]}
    assert list(checks) == NAMES
    skipped = ["applies to production only"]
    assert [name for name, check in checks.items() if check["messages"] == skipped] == PRODUCTION_ONLY
    assert checks["jwks"] == {"name": "jwks", "status": "SKIPPED", "messages": ["JWKS_URL is not set"]}
    assert {checks[name]["status"] for name in NAMES if name not in (*PRODUCTION_ONLY, "jwks")} == {"OK"}


def test_a_wrong_option_is_a_usage_error() -> None:
    done = run_command("check", "--prodction")

    assert done.returncode == 2
    assert "No such option" in done.stderr
