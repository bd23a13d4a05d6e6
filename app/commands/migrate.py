"""`python -m app migrate`"""

from app import migrating
from app.commands.reach import database_url, open_database
from app.pricing import publishing


async def run() -> None:
    with database_url() as url:
        async with open_database(url, migrated=False):
            done = [f"applied {name}" for name in await migrating.apply()]
            if await publishing.load_default():
                done.append("loaded the default rate card")
    print("\n".join(done) or "nothing to do")
