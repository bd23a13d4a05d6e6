"""`python -m app migrate`"""

from app.commands.reach import both_urls, migrate


async def run() -> None:
    with both_urls() as (owner_url, application_url):
        done = await migrate(owner_url, application_url)
    print("\n".join(done) or "nothing to do")
