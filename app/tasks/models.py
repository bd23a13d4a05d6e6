"""Tortoise models of tasks and block runs. The real primary keys begin with `account_id` (see ledger.models)."""

from tortoise import fields
from tortoise.models import Model


class TaskAccount(Model):
    """The account of a task. This small table makes task ids unique on the whole platform."""

    task_id = fields.CharField(max_length=255, primary_key=True)
    account_id = fields.BigIntField()

    class Meta:
        table = "task_account"


class Task(Model):
    """One execution of an agent. `steps`, `charged` and `reversed` (credits) are the sums of its block runs.

    `budget_hold` is the number of the budget that pays for it. `request_hash` is that of the request that started it.
    """

    account_id = fields.BigIntField()
    task_id = fields.CharField(max_length=255, primary_key=True)
    agent_id = fields.CharField(max_length=255)
    status = fields.CharField(max_length=16)
    stop_reason = fields.CharField(max_length=32, null=True)
    trigger = fields.CharField(max_length=16)
    parent_task_id = fields.CharField(max_length=255, null=True)
    started_at = fields.DatetimeField()
    ended_at = fields.DatetimeField(null=True)
    steps = fields.IntField(default=0)
    charged = fields.BigIntField(default=0)
    reversed = fields.BigIntField(default=0)
    shortfall = fields.BigIntField(null=True)
    required = fields.BigIntField(null=True)
    budget_hold = fields.IntField(null=True)
    version = fields.BigIntField(default=1)
    request_hash = fields.BinaryField()
    actor = fields.TextField()

    class Meta:
        table = "task"


class SkippedStart(Model):
    """A scheduled task that did not start for lack of credits. No task exists; the same id may start later."""

    account_id = fields.BigIntField()
    task_id = fields.CharField(max_length=255, primary_key=True)
    agent_id = fields.CharField(max_length=255)
    reason = fields.CharField(max_length=32)
    skipped_at = fields.DatetimeField()

    class Meta:
        table = "skipped_start"


class BlockRun(Model):
    """One block run, even if it costs 0. Its settings are not stored, only the price rule that matched and its model.

    The executor reported `outcome` at `finished_at`. `entry_seq` is the CHARGE entry. `outcome_seq` is the REVERSAL
    entry that returned credits because of the outcome.
    """

    account_id = fields.BigIntField()
    block_run_id = fields.CharField(max_length=255, primary_key=True)
    task_id = fields.CharField(max_length=255)
    position = fields.IntField()
    block = fields.CharField(max_length=255)
    model = fields.CharField(max_length=255, null=True)
    cost = fields.BigIntField()
    reversed = fields.BigIntField(default=0)
    uses_own_key = fields.BooleanField()
    charged_at = fields.DatetimeField()
    rate_card_version = fields.IntField()
    rule: fields.Field[object] = fields.JSONField(null=True)
    entry_seq = fields.BigIntField(null=True)
    request_hash = fields.BinaryField()
    actor = fields.TextField()
    outcome = fields.CharField(max_length=16, null=True)
    finished_at = fields.DatetimeField(null=True)
    outcome_seq = fields.BigIntField(null=True)
    request_id = fields.TextField(null=True)

    class Meta:
        table = "block_run"
