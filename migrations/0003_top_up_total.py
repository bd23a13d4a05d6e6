"""The total of a top-up with the tax that was added to its price, and refunds of less money than one credit costs."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

# `tax_lines` contains the tax of earlier payments. A refund may return more than the price: the tax too.
TOTAL = """
UPDATE top_up SET total_minor = amount_minor + coalesce((
    SELECT sum((line ->> 'amount_minor')::bigint)
    FROM jsonb_array_elements(CASE jsonb_typeof(tax_lines) WHEN 'array' THEN tax_lines END) AS line
    WHERE NOT (line ->> 'inclusive')::bool), 0)
WHERE paid_at IS NOT NULL;
ALTER TABLE top_up
    DROP CONSTRAINT top_up_given_back,
    ADD CONSTRAINT top_up_given_back CHECK (
        refunded_minor BETWEEN 0 AND coalesce(total_minor, amount_minor) AND clawed_back_credits >= 0
        AND bonus_credits >= 0 AND refunded_credits + clawed_back_credits <= credits),
    ADD CONSTRAINT top_up_total CHECK (total_minor >= amount_minor);
-- A refund that was begun at the provider may return less money than one credit costs.
ALTER TABLE top_up_refund
    DROP CONSTRAINT top_up_refund_figures,
    ADD CONSTRAINT top_up_refund_figures CHECK (
        credits >= 0 AND debt_credits BETWEEN 0 AND credits AND bonus_credits >= 0 AND amount_minor >= 0),
    ADD CONSTRAINT top_up_refund_not_empty CHECK (credits > 0 OR amount_minor > 0);
"""

# Existing rows may contradict the earlier checks, so they are not validated.
UNDO = """
ALTER TABLE top_up
    DROP CONSTRAINT top_up_total,
    DROP CONSTRAINT top_up_given_back,
    ADD CONSTRAINT top_up_given_back CHECK (
        refunded_minor BETWEEN 0 AND amount_minor AND clawed_back_credits >= 0 AND bonus_credits >= 0
        AND refunded_credits + clawed_back_credits <= credits) NOT VALID;
ALTER TABLE top_up_refund
    DROP CONSTRAINT top_up_refund_not_empty,
    DROP CONSTRAINT top_up_refund_figures,
    ADD CONSTRAINT top_up_refund_figures CHECK (
        credits > 0 AND debt_credits BETWEEN 0 AND credits AND bonus_credits >= 0 AND amount_minor >= 0) NOT VALID;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0002_keys_checks_and_indexes")]

    operations = [
        ops.AddField(model_name="TopUp", name="total_minor", field=fields.BigIntField(null=True)),
        ops.RunSQL(TOTAL, reverse_sql=UNDO),
    ]
