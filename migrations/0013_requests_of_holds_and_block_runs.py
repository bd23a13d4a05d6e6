"""Which request placed a hold, and which had a block run charged: what costs 0 has no entry to say it."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("credits", "0012_trail_and_keys")]

    initial = False

    operations = [
        ops.AddField(model_name="Hold", name="request_id", field=fields.TextField(null=True, unique=False)),
        ops.AddField(model_name="BlockRun", name="request_id", field=fields.TextField(null=True, unique=False)),
    ]
