"""What looks like a secret of ours, and a watch that no record of any log ever holds one."""

import logging
import re
from typing import Final

SECRET: Final = re.compile(
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}"  # a token
    r"|ck_[0-9a-f]{16}_[0-9a-f]{64}"  # a service key
    r"|\b[sr]k_(?:test|live)_\w{4,}|\bwhsec_\w{4,}"  # Stripe's keys and secrets
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|postgres(?:ql)?://[^\s:/@]+:[^\s@]+@"  # an address with a password
    r"|\bBearer \w"
)


class Watch(logging.Handler):
    """Looks at every record as it would be written in development, with its fault's words."""

    def __init__(self, *secrets: str) -> None:
        """`secrets`: of this run, besides those that look like one."""
        super().__init__()
        self.found: list[str] = []
        self._secrets = secrets
        self._formatter = logging.Formatter("%(name)s: %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatter.format(record)
        if (looks := SECRET.search(text)) or any(secret in text for secret in self._secrets):
            self.found.append(
                f"{record.pathname}:{record.lineno} {looks[0][:12] if looks else 'a secret of this run'}…"
            )
