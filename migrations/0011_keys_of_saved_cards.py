"""What Tortoise cannot say of saved cards and refills: see 0002_true_keys."""

from tortoise import migrations
from tortoise.migrations import operations as ops

FORWARD = """
ALTER TABLE sandbox_payment
    ALTER saves_card SET DEFAULT false,
    ALTER customer_ref TYPE varchar(255) COLLATE "C", ALTER card_ref TYPE varchar(255) COLLATE "C";
ALTER TABLE sandbox_card
    ALTER card_ref TYPE varchar(255) COLLATE "C", ALTER customer_ref TYPE varchar(255) COLLATE "C";
ALTER TABLE sandbox_customer
    ALTER customer_ref TYPE varchar(255) COLLATE "C", ALTER reference TYPE varchar(255) COLLATE "C";
CREATE INDEX sandbox_card_of_customer ON sandbox_card (customer_ref);

-- A bonus expires some days after it came.
ALTER TABLE top_up ADD CONSTRAINT top_up_bonus CHECK (bonus_credits = 0 OR bonus_days > 0);

-- Only who has it switched on costs the sweep anything.
CREATE INDEX auto_top_up_enabled ON auto_top_up (looked_at NULLS FIRST) WHERE enabled;
"""

BACKWARD = """
DROP INDEX auto_top_up_enabled;
ALTER TABLE top_up DROP CONSTRAINT top_up_bonus;
DROP INDEX sandbox_card_of_customer;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0010_saved_cards")]

    operations = [ops.RunSQL(FORWARD, reverse_sql=BACKWARD)]
