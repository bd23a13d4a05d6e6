"""The id of the key that signed each entry, and the ids of all keys that have signed.

Entries that exist already have no id: they were signed with the ledger key itself, and entries cannot be changed.
"""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("credits", "0007_outgoing_webhooks")]

    operations = [
        ops.AddField(model_name="Entry", name="key_id", field=fields.CharField(max_length=8, null=True)),
        ops.CreateModel(
            name="LedgerKeyId",
            fields=[
                ("id", fields.CharField(max_length=8, primary_key=True)),
                ("first_used_at", fields.DatetimeField()),
            ],
            options={
                "table": "ledger_key",
                "app": "credits",
                "pk_attr": "id",
                "table_description": "The id of a ledger key that may have signed entries. The keys are not in the database.",
            },
            bases=["Model"],
        ),
    ]
