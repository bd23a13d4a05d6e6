"""`python -m app migrate`"""

from app.cli.connection import migrate, owner_and_application_urls


async def run() -> None:
    with owner_and_application_urls() as (owner_url, application_url):
        done = await migrate(owner_url, application_url)
    print("\n".join(done) or "there is nothing to do")
