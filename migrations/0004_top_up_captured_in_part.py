"""The price that was ordered, for top-ups of which only a part was captured."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

CHECK = """
ALTER TABLE top_up ADD CONSTRAINT top_up_ordered CHECK (ordered_minor >= amount_minor);
"""

UNDO = """
ALTER TABLE top_up DROP CONSTRAINT top_up_ordered;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0003_top_up_total")]

    operations = [
        ops.AddField(model_name="TopUp", name="ordered_minor", field=fields.BigIntField(null=True)),
        ops.RunSQL(CHECK, reverse_sql=UNDO),
    ]
