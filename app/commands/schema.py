"""`python -m app schema`"""

from app.graphql.schema import build, printed


def run() -> None:
    print(printed(build()), end="")
