"""Fixtures that engine tests share with those of the schema."""

from tests.api.conftest import api, compiled_and_interpreted, operations_are_compiled

__all__ = ["api", "compiled_and_interpreted", "operations_are_compiled"]
