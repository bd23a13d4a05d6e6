from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

FORWARD = """
ALTER TABLE block_run
    ALTER outcome TYPE varchar(16) COLLATE "C",
    ADD CONSTRAINT block_run_finished CHECK (
        (outcome IS NULL) = (finished_at IS NULL) AND (outcome IS NOT NULL OR outcome_seq IS NULL));
"""

BACKWARD = "ALTER TABLE block_run DROP CONSTRAINT block_run_finished;"


class Migration(migrations.Migration):
    dependencies = [('credits', '0004_keys_of_holds')]

    initial = False

    operations = [
        ops.AddField(
            model_name='BlockRun',
            name='finished_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='BlockRun',
            name='outcome',
            field=fields.CharField(null=True, max_length=16),
        ),
        ops.AddField(
            model_name='BlockRun',
            name='outcome_seq',
            field=fields.BigIntField(null=True),
        ),
        ops.RunSQL(FORWARD, reverse_sql=BACKWARD),
    ]
