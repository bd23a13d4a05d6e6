"""The columns that may contain an owner id."""

from collections.abc import Mapping
from typing import Final

TEXT_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "task_account": ("task_id",),
    "task": ("task_id", "agent_id", "parent_task_id", "actor"),
    "skipped_start": ("task_id", "agent_id"),
    "block_run": ("block_run_id", "task_id", "actor", "request_id"),
    "hold": ("task_id", "block_run_id", "actor", "request_id"),
    "credit_grant": ("actor", "reason"),
    "notification": ("agent_id", "message"),
    "operation": ("key",),
    "top_up": ("actor",),
    "top_up_refund": ("actor", "reason"),
    "auto_top_up": ("consent_actor",),
    "audit_record": ("subject", "actor", "request_id", "reason"),
    "webhook_delivery": ("last_error",),
}
"""Columns that may contain the owner id, in tables with an `account_id`. Entries are rewritten separately."""
JSON_COLUMNS: Final = (
    ("operation", "result", "jsonb"), ("hold", "terms", "jsonb"), ("block_run", "rule", "jsonb"),
    ("top_up", "tax_lines", "jsonb"), ("audit_record", "before", "jsonb"), ("audit_record", "after", "jsonb"),
    ("webhook_delivery", "payload", "text"),
)  # fmt: skip
ENTRY_COLUMNS: Final = ("actor", "reason", "task_id", "block_run_id", "request_id")
"""Columns of entries that may contain the owner id."""
