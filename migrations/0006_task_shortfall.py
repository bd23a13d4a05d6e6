"""The shortfall of a stopped task may exceed what its block run costs, because added credits first pay debt."""

from tortoise import migrations
from tortoise.migrations import operations as ops

CHECK = """
ALTER TABLE task DROP CONSTRAINT task_shortfall,
    ADD CONSTRAINT task_shortfall CHECK (required >= 0 AND shortfall >= 0);
"""

UNDO = """
UPDATE task SET shortfall = required WHERE shortfall > required;
ALTER TABLE task DROP CONSTRAINT task_shortfall,
    ADD CONSTRAINT task_shortfall CHECK (required >= shortfall AND shortfall >= 0);
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0005_dispute_figures")]

    operations = [ops.RunSQL(CHECK, reverse_sql=UNDO)]
