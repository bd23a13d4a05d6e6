"""What Tortoise cannot say of payments, refunds and refills: see 0002_true_keys."""

from tortoise import migrations
from tortoise.migrations import operations as ops

FORWARD = """
ALTER TABLE credit_grant ALTER pays_debt SET DEFAULT true;

ALTER TABLE top_up
    ALTER refunded SET DEFAULT 0, ALTER refunded_minor SET DEFAULT 0, ALTER clawed_back SET DEFAULT 0, ALTER bonus_credits SET DEFAULT 0,
    ALTER live SET DEFAULT false, ALTER automatic SET DEFAULT false, ALTER saves_card SET DEFAULT false,
    ALTER payment_ref TYPE varchar(255) COLLATE "C",
    ADD CONSTRAINT top_up_given_back CHECK (
        refunded_minor BETWEEN 0 AND amount_minor AND clawed_back >= 0 AND bonus_credits >= 0
        AND refunded + clawed_back <= credits);
-- One refill at a time: the intent is claimed before the provider is called.
CREATE UNIQUE INDEX top_up_open_refill ON top_up (account_id) WHERE automatic AND status = 'PENDING';
CREATE INDEX top_up_refills ON top_up (account_id, created_at) WHERE automatic;

-- Which account a provider's payment belongs to: refunds and disputes name nothing else.
ALTER TABLE provider_payment
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C";

ALTER TABLE top_up_refund DROP CONSTRAINT top_up_refund_pkey;
ALTER TABLE top_up_refund
    ALTER id TYPE varchar(64) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C", ALTER refund_ref TYPE varchar(255) COLLATE "C",
    ADD PRIMARY KEY (account_id, id),
    ADD CONSTRAINT top_up_refund_figures CHECK (
        credits > 0 AND debt_credits BETWEEN 0 AND credits AND bonus_credits >= 0 AND amount_minor >= 0),
    ADD CONSTRAINT top_up_refund_decided CHECK ((status = 'PENDING') = (decided_at IS NULL));
CREATE UNIQUE INDEX top_up_refund_ref ON top_up_refund (account_id, refund_ref) WHERE refund_ref IS NOT NULL;
CREATE INDEX top_up_refund_of ON top_up_refund (account_id, top_up_id);
CREATE INDEX top_up_refund_pending ON top_up_refund (created_at) WHERE status = 'PENDING';

ALTER TABLE dispute DROP CONSTRAINT dispute_pkey;
ALTER TABLE dispute
    ALTER dispute_ref TYPE varchar(255) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C",
    ADD PRIMARY KEY (account_id, dispute_ref),
    ADD CONSTRAINT dispute_figures CHECK (credits >= 0 AND amount_minor > 0),
    ADD CONSTRAINT dispute_decided CHECK ((status = 'OPEN') = (decided_at IS NULL));
CREATE INDEX dispute_open ON dispute (account_id) WHERE status = 'OPEN';

ALTER TABLE payment_customer DROP CONSTRAINT payment_customer_pkey;
ALTER TABLE payment_customer
    ALTER provider TYPE varchar(16) COLLATE "C", ALTER customer_ref TYPE varchar(255) COLLATE "C",
    ADD PRIMARY KEY (account_id, provider);

ALTER TABLE auto_top_up
    ADD CONSTRAINT auto_top_up_terms CHECK (
        NOT enabled OR (threshold >= 0 AND (amount IS NULL) <> (up_to IS NULL) AND consent_version IS NOT NULL)),
    ADD CONSTRAINT auto_top_up_figures CHECK (declines >= 0 AND amount > 0 AND up_to > 0);

-- What waits in the inbox to be tried again.
CREATE INDEX provider_notice_waiting ON provider_notice (next_attempt_at)
    WHERE handled_at IS NULL AND parked_at IS NULL AND next_attempt_at IS NOT NULL;
CREATE INDEX provider_notice_parked ON provider_notice (parked_at) WHERE parked_at IS NOT NULL AND handled_at IS NULL;
"""

BACKWARD = """
DROP INDEX provider_notice_parked, provider_notice_waiting, dispute_open, top_up_refund_pending, top_up_refund_of, top_up_refund_ref, top_up_refills, top_up_open_refill;
ALTER TABLE auto_top_up DROP CONSTRAINT auto_top_up_terms, DROP CONSTRAINT auto_top_up_figures;
ALTER TABLE dispute DROP CONSTRAINT dispute_figures, DROP CONSTRAINT dispute_decided;
ALTER TABLE top_up_refund DROP CONSTRAINT top_up_refund_figures, DROP CONSTRAINT top_up_refund_decided;
ALTER TABLE top_up DROP CONSTRAINT top_up_given_back;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0006_money")]

    operations = [ops.RunSQL(FORWARD, reverse_sql=BACKWARD)]
