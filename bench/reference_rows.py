"""The reference server's own tables: the same facts as the product's, kept the way an ORM keeps them."""

from tortoise import fields
from tortoise.models import Model


class Account(Model):
    id = fields.BigIntField(primary_key=True)
    owner_id = fields.CharField(max_length=255, unique=True)
    balance = fields.BigIntField()
    version = fields.BigIntField(default=0)

    tasks: fields.ReverseRelation["Task"]

    class Meta:
        table = "reference_account"


class Task(Model):
    id = fields.CharField(primary_key=True, max_length=255)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("reference.Account", related_name="tasks")
    status = fields.CharField(max_length=16, default="RUNNING")
    steps = fields.IntField(default=0)
    charged = fields.BigIntField(default=0)

    class Meta:
        table = "reference_task"


class Entry(Model):
    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("reference.Account", related_name="entries")
    version = fields.BigIntField()
    kind = fields.CharField(max_length=16)
    credits = fields.BigIntField()
    balance_after = fields.BigIntField()
    actor = fields.CharField(max_length=255)
    at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "reference_entry"
        unique_together = (("account", "version"),)


class BlockRun(Model):
    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField("reference.Account", related_name="block_runs")
    task: fields.ForeignKeyRelation[Task] = fields.ForeignKeyField("reference.Task", related_name="block_runs")
    entry: fields.ForeignKeyNullableRelation[Entry] = fields.ForeignKeyField("reference.Entry", null=True)
    block_run_id = fields.CharField(max_length=255)
    block = fields.CharField(max_length=255)
    model = fields.CharField(max_length=255, null=True)
    cost = fields.BigIntField()
    price_version = fields.IntField()
    fingerprint = fields.BinaryField()

    class Meta:
        table = "reference_block_run"
        unique_together = (("account", "block_run_id"),)
