"""The schema of the API: schema.graphql is up to date, and all parts of it are declared."""

from pathlib import Path

from app.api.schema import UNLIMITED_MUTATIONS, build_schema
from app.engine.schema import format_schema

CHECKOUT = Path(__file__).resolve().parents[2]


def test_schema_graphql_is_up_to_date() -> None:
    assert (CHECKOUT / "schema.graphql").read_text(encoding="utf-8") == format_schema(build_schema()), (
        "run `make schema`"
    )


def test_unlimited_mutations_are_those_of_work_in_progress() -> None:
    mutations = build_schema()._schema.mutation_type
    assert mutations is not None
    assert {"charge", "chargeBatch", "placeHold", "captureHold", "voidHold"} == UNLIMITED_MUTATIONS
    assert mutations.fields.keys() >= UNLIMITED_MUTATIONS
