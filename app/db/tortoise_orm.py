"""`TORTOISE_ORM` for Tortoise's command line (`[tool.tortoise]` in pyproject.toml, `make migrations`)."""

from app.db.pools import tortoise_config
from app.settings import get_settings

TORTOISE_ORM = tortoise_config(get_settings().database_url or "postgresql://localhost/credits")
