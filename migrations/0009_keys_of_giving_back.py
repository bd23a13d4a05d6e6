"""What Tortoise cannot say of refunds, disputes and debt: see 0002_true_keys."""

from tortoise import migrations
from tortoise.migrations import operations as ops

FORWARD = """
-- What a dispute freezes may have been spent already: then more is frozen than is left, and nothing is available.
ALTER TABLE account DROP CONSTRAINT account_figures;
ALTER TABLE account ADD CONSTRAINT account_figures CHECK (
    posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen BETWEEN 0 AND 9007199254740991
    AND owed BETWEEN 0 AND 9007199254740991 AND held <= posted AND seq >= 0 AND version >= seq);

-- The grants that a top-up made: what a refund takes back.
CREATE INDEX credit_grant_of_top_up ON credit_grant (account_id, top_up_id) WHERE top_up_id IS NOT NULL;

ALTER TABLE top_up_refund
    ADD CONSTRAINT top_up_refund_shares CHECK (bonus_expired >= 0 AND bonus_spent >= 0 AND reduced_minor >= 0);
ALTER TABLE dispute
    ADD CONSTRAINT dispute_shares CHECK (bonus_credits >= 0 AND bonus_expired >= 0 AND bonus_spent >= 0);
CREATE INDEX dispute_of ON dispute (account_id, top_up_id);

ALTER TABLE sandbox_payment
    ALTER refunded_minor SET DEFAULT 0,
    ADD CONSTRAINT sandbox_payment_refunded CHECK (refunded_minor BETWEEN 0 AND amount_minor);
ALTER TABLE sandbox_refund
    ALTER refund_ref TYPE varchar(255) COLLATE "C", ALTER reference TYPE varchar(255) COLLATE "C",
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER state TYPE varchar(16) COLLATE "C",
    ADD CONSTRAINT sandbox_refund_figures CHECK (amount_minor > 0);
CREATE INDEX sandbox_refund_of ON sandbox_refund (payment_ref);
ALTER TABLE sandbox_dispute
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER state TYPE varchar(16) COLLATE "C";

-- Payments of the sandbox were paid before they had an id of their own: it is the checkout's.
WITH paid AS (
    UPDATE top_up SET payment_ref = provider_ref
    WHERE provider = 'sandbox' AND status = 'PAID' AND payment_ref IS NULL AND provider_ref IS NOT NULL
    RETURNING payment_ref, account_id, id
)
INSERT INTO provider_payment (payment_ref, account_id, top_up_id) SELECT * FROM paid ON CONFLICT DO NOTHING;
"""

BACKWARD = """
DROP INDEX sandbox_refund_of, dispute_of, credit_grant_of_top_up;
ALTER TABLE sandbox_refund DROP CONSTRAINT sandbox_refund_figures;
ALTER TABLE sandbox_payment DROP CONSTRAINT sandbox_payment_refunded;
ALTER TABLE dispute DROP CONSTRAINT dispute_shares;
ALTER TABLE top_up_refund DROP CONSTRAINT top_up_refund_shares;
ALTER TABLE account DROP CONSTRAINT account_figures;
ALTER TABLE account ADD CONSTRAINT account_figures CHECK (
    posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen >= 0 AND owed BETWEEN 0 AND 9007199254740991
    AND held + frozen <= posted AND seq >= 0 AND version >= seq) NOT VALID;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0008_giving_back")]

    operations = [ops.RunSQL(FORWARD, reverse_sql=BACKWARD)]
