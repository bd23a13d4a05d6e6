"""Fixtures of engine tests."""

from collections.abc import Iterator

import pytest

from app.engine.compiler.cache import OperationCache
from tests.engine import sample_schema

ENGINES = (sample_schema.engine, sample_schema.production_engine)


@pytest.fixture(params=["compiled", "interpreted"])
def compiled_and_interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: operations are compiled, and executed by graphql-core. No response may differ."""
    if request.param == "interpreted":
        for engine in ENGINES:
            hide_suggestions = engine is sample_schema.production_engine
            cache = OperationCache(engine.schema, compile_operations=False, hide_suggestions=hide_suggestions)
            monkeypatch.setattr(engine, "_cache", cache)


@pytest.fixture(autouse=True, scope="session")
def operations_are_compiled() -> Iterator[None]:
    """All operations of the tests are compiled, except introspection and documents that are too long."""
    yield
    for engine in ENGINES:
        assert engine.execution_counts.interpreted.keys() <= {"introspection", "length"}
