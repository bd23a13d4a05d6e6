"""Detects secrets in log records."""

import logging
import re
from typing import Final

SECRET: Final = re.compile(
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}"  # a token
    r"|ck_[0-9a-f]{16}_[0-9a-f]{64}"  # a service key
    r"|\b[sr]k_(?:test|live)_\w{4,}|\bwhsec_\w{4,}"  # Stripe's keys and secrets
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|postgres(?:ql)?://[^\s:/@]+:[^\s@]+@"  # a database URL with a password
    r"|\bBearer \w"
)


class SecretDetector(logging.Handler):
    """Finds records that contain a secret when they are formatted as in development, with exception messages."""

    def __init__(self, *secrets: str) -> None:
        """`secrets`: further secrets, which do not match SECRET."""
        super().__init__()
        self.found: list[str] = []
        self._secrets = secrets
        self._formatter = logging.Formatter("%(name)s: %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatter.format(record)
        if (match := SECRET.search(text)) or any(secret in text for secret in self._secrets):
            self.found.append(
                f"{record.pathname}:{record.lineno} {match[0][:12] if match else 'a secret of this run'}…"
            )
