"""`python -m app token user NAME | service NAME | operator NAME`"""

from typing import Final, Literal

from app.auth import development_keys, service_keys
from app.cli.connection import database_url, open_database

Kind = Literal["user", "service", "operator"]

EXAMPLE_NAMES: Final[dict[Kind, str]] = {"user": "alice", "service": "executor", "operator": "olivia"}
"""The callers for whom `serve` prints tokens."""


async def run(kind: Kind, name: str) -> None:
    if kind != "service":
        print(await create_token(kind, name))
        return
    with database_url() as url:
        async with open_database(url):
            print(await create_token(kind, name))


async def create_token(kind: Kind, name: str) -> str:
    """Return a development token.

    For a service, the token is a service key that depends only on the name. It is stored in the database, which must be
    open.
    """
    match kind:
        case "user":
            return development_keys.user_token(name)
        case "operator":
            return development_keys.operator_token(name)
        case "service":
            return await service_keys.development_key(name)
