"""Tortoise models of the ledger's tables.

A Tortoise model has a primary key of one column, but the keys of these tables start with `account_id` (the migrations
make them). So each model declares the second column as its key. Always query them by `account_id` as well.
"""

from tortoise import fields
from tortoise.models import Model


class Owner(Model):
    """The account of each owner. This table keeps `owner_id` unique when accounts are partitioned."""

    owner_id = fields.CharField(max_length=255, primary_key=True)
    account_id = fields.BigIntField()

    class Meta:
        table = "owner"


class Account(Model):
    """One owner's account. The lock of its row protects all rows of the account."""

    id = fields.BigIntField(primary_key=True, generated=False)
    owner_id = fields.CharField(max_length=255)
    seq = fields.BigIntField(default=0)
    version = fields.BigIntField(default=0)
    grant_count = fields.IntField(default=0)
    hold_count = fields.IntField(default=0)
    open_holds = fields.IntField(default=0)
    notification_count = fields.IntField(default=0)
    posted = fields.BigIntField(default=0)
    held = fields.BigIntField(default=0)
    frozen = fields.BigIntField(default=0)
    owed = fields.BigIntField(default=0)
    last_mac = fields.BinaryField()
    last_entry_at = fields.DatetimeField(null=True)
    next_change_at = fields.DatetimeField(null=True)
    low_balance_threshold = fields.BigIntField(null=True)
    created_at = fields.DatetimeField()

    class Meta:
        table = "account"


class Entry(Model):
    """One signed entry. Privileges and triggers prevent changes and deletions."""

    account_id = fields.BigIntField()
    seq = fields.BigIntField(primary_key=True, generated=False)
    version = fields.BigIntField()
    kind = fields.CharField(max_length=16)
    credits = fields.BigIntField()
    owed = fields.BigIntField()
    balance_after = fields.BigIntField()
    at = fields.DatetimeField()
    actor = fields.TextField()
    reason = fields.TextField(null=True)
    task_id = fields.CharField(max_length=255, null=True)
    block_run_id = fields.CharField(max_length=255, null=True)
    top_up_id = fields.CharField(max_length=64, null=True)
    request_id = fields.TextField(null=True)
    draws: fields.Field[list[list[int]]] = fields.JSONField()
    hold_number = fields.IntField(null=True)
    mac = fields.BinaryField()
    key_id = fields.CharField(max_length=8, null=True)

    class Meta:
        table = "entry"


class LedgerKeyId(Model):
    """The id of a ledger key that may have signed entries. The keys are not in the database."""

    id = fields.CharField(max_length=8, primary_key=True)
    first_used_at = fields.DatetimeField()

    class Meta:
        table = "ledger_key"


class Grant(Model):
    """A number of credits granted together. `is_open` is False once nothing is left; a reversal can open it again."""

    account_id = fields.BigIntField()
    number = fields.IntField(primary_key=True, generated=False)
    source = fields.CharField(max_length=16)
    credits = fields.BigIntField()
    remaining = fields.BigIntField()
    claimed = fields.BigIntField(default=0)
    priority = fields.IntField()
    starts_at = fields.DatetimeField(null=True)
    expires_at = fields.DatetimeField(null=True)
    is_started = fields.BooleanField()
    is_open = fields.BooleanField()
    actor = fields.TextField()
    reason = fields.TextField(null=True)
    top_up_id = fields.CharField(max_length=64, null=True)
    pays_debt = fields.BooleanField(default=True)
    created_at = fields.DatetimeField()

    class Meta:
        table = "credit_grant"


class Hold(Model):
    """Credits claimed for one block run, or for a whole task (a budget, whose `block_run_id` is null)."""

    account_id = fields.BigIntField()
    number = fields.IntField(primary_key=True, generated=False)
    task_id = fields.CharField(max_length=255)
    block_run_id = fields.CharField(max_length=255, null=True)
    parent_budget = fields.IntField(null=True)
    credits = fields.BigIntField()
    captured = fields.BigIntField()
    released = fields.BigIntField()
    allocated = fields.BigIntField()
    closing_reserve = fields.BigIntField()
    claims: fields.Field[list[list[int]]] = fields.JSONField()
    remaining = fields.BigIntField()
    status = fields.CharField(max_length=16)
    timeout_seconds = fields.IntField()
    placed_at = fields.DatetimeField()
    expires_at = fields.DatetimeField()
    closed_at = fields.DatetimeField(null=True)
    terms: fields.Field[dict[str, object]] = fields.JSONField(null=True)
    priced_credits = fields.BigIntField(null=True)
    request_hash = fields.BinaryField(null=True)
    capture_request_hash = fields.BinaryField(null=True)
    actor = fields.TextField()
    request_id = fields.TextField(null=True)

    class Meta:
        table = "hold"


class Notification(Model):
    """A notification to a person about an account. At most one per kind, agent and subject is unresolved."""

    account_id = fields.BigIntField()
    number = fields.IntField(primary_key=True, generated=False)
    kind = fields.CharField(max_length=32)
    agent_id = fields.CharField(max_length=255)
    subject = fields.CharField(max_length=64)
    message = fields.TextField()
    at = fields.DatetimeField()
    read_at = fields.DatetimeField(null=True)
    resolved_at = fields.DatetimeField(null=True)

    class Meta:
        table = "notification"


class Operation(Model):
    """An idempotency key with the hash of its request and the ids of its result. It is never deleted."""

    account_id = fields.BigIntField()
    key = fields.CharField(max_length=255, primary_key=True)
    kind = fields.CharField(max_length=32)
    request_hash = fields.BinaryField()
    result: fields.Field[dict[str, object]] = fields.JSONField()
    at = fields.DatetimeField()

    class Meta:
        table = "operation"
