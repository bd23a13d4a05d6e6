"""`python -m app schema`"""

from app.api.schema import build_schema
from app.engine.schema import format_schema


def run() -> None:
    print(format_schema(build_schema()), end="")
