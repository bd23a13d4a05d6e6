"""Rows of tasks and their block runs. The migrations make the true keys, led by `account_id` (see ledger.models)."""

from tortoise import fields
from tortoise.models import Model


class TaskAccount(Model):
    """Which account a task belongs to: the small table that makes a task id unique on the platform."""

    task_id = fields.CharField(max_length=255, primary_key=True)
    account_id = fields.BigIntField()

    class Meta:
        table = "task_account"


class Task(Model):
    """One execution of an agent. `charged`, `reversed` and `steps` run along with its block runs."""

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
    """A scheduled run that did not start for want of credits. No task exists; the same tick may start later."""

    account_id = fields.BigIntField()
    task_id = fields.CharField(max_length=255, primary_key=True)
    agent_id = fields.CharField(max_length=255)
    reason = fields.CharField(max_length=32)
    skipped_at = fields.DatetimeField()

    class Meta:
        table = "skipped_start"


class BlockRun(Model):
    """One block run, at cost 0 too. Settings are not kept: only the matched rule and the model that it names.

    `outcome`: how it ended, if its executor has said so; `finished_at`: when it said so; `outcome_seq`: the entry by
    which the outcome gave something back.
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
