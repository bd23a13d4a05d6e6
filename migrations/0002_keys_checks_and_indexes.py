"""What Tortoise models cannot express: primary keys, collations, checks, partial indexes, append-only tables.

- A primary key of a ledger-side table starts with account_id, so that the tables can be partitioned by account.
- Text ids have collation "C": they are compared as bytes.
- A column with a default in the model gets the same default in the database, because set writes do not name it.
- Rows that every charge updates have fillfactor 50, so that PostgreSQL can update them in place (HOT) without touching
  an index.
- `n_distinct` corrects the planner's estimate of rows per account on tables that are still small.
- Some index predicates are always true (`position > 0`, `started_at > '-infinity'`). Only the queries that need the
  index repeat the predicate. Otherwise, on an empty table, the planner considers the index as good as the primary key,
  and a posting connection keeps that plan.
"""

from tortoise import migrations
from tortoise.migrations import operations as ops

LEDGER = """
ALTER TABLE owner ALTER owner_id TYPE varchar(255) COLLATE "C";

CREATE SEQUENCE account_id_seq AS bigint OWNED BY account.id;
ALTER TABLE account
    ALTER owner_id TYPE varchar(255) COLLATE "C",
    ALTER seq SET DEFAULT 0, ALTER version SET DEFAULT 0,
    ALTER grant_count SET DEFAULT 0, ALTER hold_count SET DEFAULT 0, ALTER open_holds SET DEFAULT 0,
    ALTER notification_count SET DEFAULT 0,
    ALTER posted SET DEFAULT 0, ALTER held SET DEFAULT 0, ALTER frozen SET DEFAULT 0, ALTER owed SET DEFAULT 0,
    -- A dispute may freeze credits that are already spent, so frozen has no bound by posted.
    ADD CONSTRAINT account_figures CHECK (
        posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen BETWEEN 0 AND 9007199254740991
        AND owed BETWEEN 0 AND 9007199254740991 AND held <= posted AND seq >= 0 AND version >= seq),
    ADD CONSTRAINT account_counters CHECK (hold_count >= open_holds AND open_holds >= 0 AND notification_count >= 0),
    SET (fillfactor = 50);
CREATE INDEX account_due ON account (next_change_at) WHERE next_change_at IS NOT NULL;

ALTER TABLE entry DROP CONSTRAINT entry_pkey;
ALTER TABLE entry
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER block_run_id TYPE varchar(255) COLLATE "C",
    ALTER top_up_id TYPE varchar(64) COLLATE "C", ALTER kind TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.01),
    ADD PRIMARY KEY (account_id, seq),
    ADD CONSTRAINT entry_bounds CHECK (
        credits BETWEEN -9007199254740991 AND 9007199254740991 AND balance_after BETWEEN 0 AND 9007199254740991),
    ADD CONSTRAINT entry_moves CHECK (credits <> 0 OR owed <> 0),
    ADD CONSTRAINT entry_mac CHECK (length(mac) = 32);
-- Finds all other entries without reading the charges. Charges do not write to this index.
CREATE INDEX entry_beside_charges ON entry (account_id, seq) WHERE kind <> 'CHARGE';

ALTER TABLE credit_grant DROP CONSTRAINT credit_grant_pkey;
ALTER TABLE credit_grant
    ALTER source TYPE varchar(16) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER pays_debt SET DEFAULT true,
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, number),
    ADD CONSTRAINT credit_grant_figures CHECK (
        credits BETWEEN 1 AND 9007199254740991 AND remaining BETWEEN 0 AND credits AND claimed BETWEEN 0 AND remaining),
    SET (fillfactor = 50);
CREATE INDEX credit_grant_open ON credit_grant (account_id) WHERE is_open;
CREATE INDEX credit_grant_expiring ON credit_grant (expires_at)
    WHERE is_open AND is_started AND expires_at IS NOT NULL;
CREATE INDEX credit_grant_of_top_up ON credit_grant (account_id, top_up_id) WHERE top_up_id IS NOT NULL;

ALTER TABLE hold DROP CONSTRAINT hold_pkey;
ALTER TABLE hold
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER block_run_id TYPE varchar(255) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, number),
    ADD CONSTRAINT hold_figures CHECK (
        credits BETWEEN 0 AND 9007199254740991 AND captured >= 0 AND released >= 0 AND allocated >= 0
        AND remaining >= 0 AND closing_reserve >= 0 AND credits = captured + released + remaining + allocated
        AND parent_budget < number),
    ADD CONSTRAINT hold_closed CHECK ((status = 'OPEN') = (closed_at IS NULL) AND (status = 'OPEN' OR remaining = 0)),
    SET (fillfactor = 50);
-- Every posting of an account with open holds reads which of them have expired.
CREATE INDEX hold_open ON hold (account_id, expires_at) WHERE status = 'OPEN';
CREATE INDEX hold_open_of_task ON hold (account_id, task_id) WHERE status = 'OPEN' AND timeout_seconds > 0;
CREATE UNIQUE INDEX hold_of_block_run ON hold (account_id, block_run_id) WHERE block_run_id IS NOT NULL;
-- A task has one budget, however often credits are added to it.
CREATE UNIQUE INDEX hold_budget ON hold (account_id, task_id) WHERE block_run_id IS NULL;

ALTER TABLE notification DROP CONSTRAINT notification_pkey;
ALTER TABLE notification
    ALTER kind TYPE varchar(32) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER subject TYPE varchar(64) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, number);
CREATE UNIQUE INDEX notification_unresolved ON notification (account_id, kind, agent_id, subject)
    WHERE resolved_at IS NULL;
CREATE INDEX notification_unread ON notification (account_id, number) WHERE read_at IS NULL;

ALTER TABLE operation DROP CONSTRAINT operation_pkey;
ALTER TABLE operation
    ALTER key TYPE varchar(255) COLLATE "C", ALTER kind TYPE varchar(32) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, key);
"""

TASKS = """
ALTER TABLE task_account ALTER task_id TYPE varchar(255) COLLATE "C";

ALTER TABLE task DROP CONSTRAINT task_pkey;
ALTER TABLE task
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER parent_task_id TYPE varchar(255) COLLATE "C", ALTER status TYPE varchar(16) COLLATE "C",
    ALTER stop_reason TYPE varchar(32) COLLATE "C", ALTER trigger TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, task_id),
    ADD CONSTRAINT task_figures CHECK (steps >= 0 AND charged >= 0 AND reversed BETWEEN 0 AND charged),
    ADD CONSTRAINT task_shortfall CHECK (required >= shortfall AND shortfall >= 0),
    SET (fillfactor = 50);
CREATE INDEX task_of_agent ON task (account_id, agent_id, started_at, task_id) WHERE started_at > '-infinity';
CREATE INDEX task_child ON task (account_id, parent_task_id) WHERE parent_task_id IS NOT NULL;
CREATE INDEX task_running ON task (account_id) WHERE status = 'RUNNING';
CREATE INDEX task_stopped ON task (account_id, started_at, task_id) WHERE status = 'STOPPED';
CREATE INDEX task_of_budget_hold ON task (account_id, budget_hold) WHERE budget_hold IS NOT NULL;

ALTER TABLE block_run DROP CONSTRAINT block_run_pkey;
ALTER TABLE block_run
    ALTER block_run_id TYPE varchar(255) COLLATE "C", ALTER task_id TYPE varchar(255) COLLATE "C",
    ALTER block TYPE varchar(255) COLLATE "C", ALTER model TYPE varchar(255) COLLATE "C",
    ALTER outcome TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.01), ALTER task_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, block_run_id),
    ADD CONSTRAINT block_run_figures CHECK (
        cost BETWEEN 0 AND 9007199254740991 AND reversed BETWEEN 0 AND cost AND (cost > 0) = (entry_seq IS NOT NULL)),
    ADD CONSTRAINT block_run_finished CHECK (
        (outcome IS NULL) = (finished_at IS NULL) AND (outcome IS NOT NULL OR outcome_seq IS NULL));
-- With task_id alone the planner combines this index with the primary key by bitmaps: 90 ms instead of 1 ms at 10^5
-- block runs.
CREATE UNIQUE INDEX block_run_of_task ON block_run (account_id, task_id, position) WHERE position > 0;

ALTER TABLE skipped_start DROP CONSTRAINT skipped_start_pkey;
ALTER TABLE skipped_start
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER reason TYPE varchar(32) COLLATE "C",
    ADD PRIMARY KEY (account_id, task_id);
CREATE INDEX skipped_start_of_agent ON skipped_start (account_id, agent_id, skipped_at, task_id)
    WHERE skipped_at > '-infinity';
"""

TOPUPS = """
ALTER TABLE top_up DROP CONSTRAINT top_up_pkey;
ALTER TABLE top_up
    ALTER id TYPE varchar(64) COLLATE "C", ALTER status TYPE varchar(16) COLLATE "C",
    ALTER payment_ref TYPE varchar(255) COLLATE "C",
    ALTER refunded_credits SET DEFAULT 0, ALTER refunded_minor SET DEFAULT 0, ALTER clawed_back_credits SET DEFAULT 0,
    ALTER bonus_credits SET DEFAULT 0,
    ALTER live SET DEFAULT false, ALTER automatic SET DEFAULT false, ALTER saves_card SET DEFAULT false,
    ADD PRIMARY KEY (account_id, id),
    ADD CONSTRAINT top_up_figures CHECK (
        credits > 0 AND amount_minor > 0 AND refunded_credits BETWEEN 0 AND credits),
    ADD CONSTRAINT top_up_given_back CHECK (
        refunded_minor BETWEEN 0 AND amount_minor AND clawed_back_credits >= 0 AND bonus_credits >= 0
        AND refunded_credits + clawed_back_credits <= credits),
    ADD CONSTRAINT top_up_bonus CHECK (bonus_credits = 0 OR bonus_days > 0);
CREATE INDEX top_up_newest ON top_up (account_id, created_at, id);
CREATE INDEX top_up_pending ON top_up (created_at) WHERE status = 'PENDING';
-- One automatic top-up at a time: the row is inserted before the provider is called.
CREATE UNIQUE INDEX top_up_automatic_pending ON top_up (account_id) WHERE automatic AND status = 'PENDING';
CREATE INDEX top_up_automatic ON top_up (account_id, created_at) WHERE automatic;

ALTER TABLE provider_payment
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C";

ALTER TABLE top_up_refund DROP CONSTRAINT top_up_refund_pkey;
ALTER TABLE top_up_refund
    ALTER id TYPE varchar(64) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C", ALTER refund_ref TYPE varchar(255) COLLATE "C",
    ADD PRIMARY KEY (account_id, id),
    ADD CONSTRAINT top_up_refund_figures CHECK (
        credits > 0 AND debt_credits BETWEEN 0 AND credits AND bonus_credits >= 0 AND amount_minor >= 0),
    ADD CONSTRAINT top_up_refund_shares CHECK (bonus_expired >= 0 AND bonus_spent >= 0 AND reduced_minor >= 0),
    ADD CONSTRAINT top_up_refund_decided CHECK ((status = 'PENDING') = (decided_at IS NULL));
CREATE UNIQUE INDEX top_up_refund_ref ON top_up_refund (account_id, refund_ref) WHERE refund_ref IS NOT NULL;
CREATE INDEX top_up_refund_of_top_up ON top_up_refund (account_id, top_up_id);
CREATE INDEX top_up_refund_pending ON top_up_refund (created_at) WHERE status = 'PENDING';

ALTER TABLE dispute DROP CONSTRAINT dispute_pkey;
ALTER TABLE dispute
    ALTER dispute_ref TYPE varchar(255) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C",
    ADD PRIMARY KEY (account_id, dispute_ref),
    ADD CONSTRAINT dispute_figures CHECK (credits >= 0 AND amount_minor > 0),
    ADD CONSTRAINT dispute_shares CHECK (bonus_credits >= 0 AND bonus_expired >= 0 AND bonus_spent >= 0),
    ADD CONSTRAINT dispute_decided CHECK ((status = 'OPEN') = (decided_at IS NULL));
CREATE INDEX dispute_open ON dispute (account_id) WHERE status = 'OPEN';
CREATE INDEX dispute_of_top_up ON dispute (account_id, top_up_id);

ALTER TABLE payment_customer DROP CONSTRAINT payment_customer_pkey;
ALTER TABLE payment_customer
    ALTER provider TYPE varchar(16) COLLATE "C", ALTER customer_ref TYPE varchar(255) COLLATE "C",
    ADD PRIMARY KEY (account_id, provider);

ALTER TABLE auto_top_up
    ADD CONSTRAINT auto_top_up_terms CHECK (
        NOT enabled OR (threshold >= 0 AND (amount IS NULL) <> (target IS NULL) AND consent_version IS NOT NULL)),
    ADD CONSTRAINT auto_top_up_figures CHECK (declines >= 0 AND amount > 0 AND target > 0);
CREATE INDEX auto_top_up_enabled ON auto_top_up (checked_at NULLS FIRST) WHERE enabled;

ALTER TABLE provider_event ALTER event_id TYPE varchar(255) COLLATE "C";
CREATE INDEX provider_event_waiting ON provider_event (next_attempt_at)
    WHERE handled_at IS NULL AND parked_at IS NULL AND next_attempt_at IS NOT NULL;
CREATE INDEX provider_event_parked ON provider_event (parked_at) WHERE parked_at IS NOT NULL AND handled_at IS NULL;
"""

SANDBOX = """
ALTER TABLE sandbox_payment
    ALTER reference TYPE varchar(255) COLLATE "C", ALTER provider_ref TYPE varchar(255) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C", ALTER customer_ref TYPE varchar(255) COLLATE "C",
    ALTER card_ref TYPE varchar(255) COLLATE "C",
    ALTER refunded_minor SET DEFAULT 0, ALTER saves_card SET DEFAULT false,
    ADD CONSTRAINT sandbox_payment_figures CHECK (amount_minor > 0 AND (status = 'OPEN') = (decided_at IS NULL)),
    ADD CONSTRAINT sandbox_payment_refunded CHECK (refunded_minor BETWEEN 0 AND amount_minor);
ALTER TABLE sandbox_refund
    ALTER refund_ref TYPE varchar(255) COLLATE "C", ALTER reference TYPE varchar(255) COLLATE "C",
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER status TYPE varchar(16) COLLATE "C",
    ADD CONSTRAINT sandbox_refund_figures CHECK (amount_minor > 0);
CREATE INDEX sandbox_refund_of_payment ON sandbox_refund (payment_ref);
ALTER TABLE sandbox_dispute
    ALTER payment_ref TYPE varchar(255) COLLATE "C", ALTER status TYPE varchar(16) COLLATE "C";
ALTER TABLE sandbox_card
    ALTER card_ref TYPE varchar(255) COLLATE "C", ALTER customer_ref TYPE varchar(255) COLLATE "C";
CREATE INDEX sandbox_card_of_customer ON sandbox_card (customer_ref);
ALTER TABLE sandbox_customer
    ALTER customer_ref TYPE varchar(255) COLLATE "C", ALTER reference TYPE varchar(255) COLLATE "C";
"""

AUDIT_LOG_AND_KEYS = """
CREATE SEQUENCE audit_record_id_seq AS bigint OWNED BY audit_record.id;
ALTER TABLE audit_record
    ALTER id SET DEFAULT nextval('audit_record_id_seq'),
    ALTER at SET DEFAULT clock_timestamp(),
    ALTER action TYPE varchar(32) COLLATE "C", ALTER actor TYPE varchar(300) COLLATE "C",
    ADD CONSTRAINT audit_record_actor CHECK (actor <> '' AND action <> '' AND scope <> '');
CREATE INDEX audit_record_of_account ON audit_record (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_record_of_actor ON audit_record (actor, id);
CREATE INDEX audit_record_of_action ON audit_record (action, id);

-- At most two active keys of one name, for a rotation: each has a slot, 1 or 2. Keys without a slot are not counted.
ALTER TABLE service_key ADD CONSTRAINT service_key_slot CHECK (slot IN (1, 2));
CREATE UNIQUE INDEX service_key_active ON service_key (name, slot) WHERE revoked_at IS NULL AND slot IS NOT NULL;
"""

# The triggers also stop the owner of the tables. The application's role has no privilege to change these rows at all
# (app/db/roles.py).
APPEND_ONLY = """
CREATE FUNCTION reject_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION reject_change();
CREATE TRIGGER entry_no_truncate BEFORE TRUNCATE ON entry FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER audit_record_append_only BEFORE UPDATE OR DELETE ON audit_record
    FOR EACH ROW EXECUTE FUNCTION reject_change();
CREATE TRIGGER audit_record_no_truncate BEFORE TRUNCATE ON audit_record
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
"""

# The first migration is undone by dropping its tables, and their keys, checks, indexes and triggers with them.
UNDO = """
DROP TRIGGER entry_append_only ON entry;
DROP TRIGGER entry_no_truncate ON entry;
DROP TRIGGER audit_record_append_only ON audit_record;
DROP TRIGGER audit_record_no_truncate ON audit_record;
DROP FUNCTION reject_change();
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0001_initial")]

    operations = [ops.RunSQL(sql, reverse_sql="") for sql in (LEDGER, TASKS, TOPUPS, SANDBOX, AUDIT_LOG_AND_KEYS)] + [
        ops.RunSQL(APPEND_ONLY, reverse_sql=UNDO)
    ]
