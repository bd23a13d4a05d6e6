"""schema.graphql is the code's own schema."""

from pathlib import Path

from app.api.schema import build_schema
from app.engine.schema import format_schema

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_file_is_what_the_code_prints() -> None:
    assert (CHECKOUT / "schema.graphql").read_text(encoding="utf-8") == format_schema(build_schema()), (
        "run `make schema`"
    )
