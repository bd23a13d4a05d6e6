"""The frozen credits and the debt of disputes, and the time of the newest report of each."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

# An open dispute has frozen all its credits so far. The debt of a lost one is in the ledger.
FIGURES = """
UPDATE dispute AS d SET
    frozen_credits = CASE WHEN d.status = 'OPEN' THEN d.credits ELSE 0 END,
    debt_credits = CASE WHEN d.status <> 'LOST' THEN 0 ELSE least(d.credits, coalesce((
        SELECT sum(e.owed) FROM entry AS e
        WHERE e.account_id = d.account_id AND e.kind = 'DEBT' AND e.top_up_id = d.top_up_id
          AND e.reason = 'dispute ' || d.dispute_ref || ' was lost'), 0)) END;
ALTER TABLE dispute
    ALTER frozen_credits SET DEFAULT 0, ALTER debt_credits SET DEFAULT 0,
    ADD CONSTRAINT dispute_frozen CHECK (
        frozen_credits BETWEEN 0 AND credits AND (status = 'OPEN' OR frozen_credits = 0)),
    ADD CONSTRAINT dispute_debt CHECK (debt_credits BETWEEN 0 AND credits);
"""

UNDO = """
ALTER TABLE dispute DROP CONSTRAINT dispute_frozen, DROP CONSTRAINT dispute_debt;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0004_top_up_captured_in_part")]

    operations = [
        ops.AddField(model_name="Dispute", name="frozen_credits", field=fields.BigIntField(default=0)),
        ops.AddField(model_name="Dispute", name="debt_credits", field=fields.BigIntField(default=0)),
        ops.AddField(model_name="Dispute", name="reported_at", field=fields.DatetimeField(null=True)),
        ops.RunSQL(FIGURES, reverse_sql=UNDO),
    ]
