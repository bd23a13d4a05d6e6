"""`TORTOISE_ORM` for Tortoise's command line (`[tool.tortoise]` in pyproject.toml, `make migrations`)."""

from app.db.pools import tortoise_config
from app.settings import get_settings, reveal

TORTOISE_ORM = tortoise_config(reveal(get_settings().database_url) or "postgresql://localhost/credits")
