"""What Tortoise cannot say: keys led by the account, collation, fill factors, checks, and entries that never change.

Every ledger-side key begins with account_id, so the same SQL runs hash-partitioned and on a distributed PostgreSQL.
Text ids compare as bytes. Rows that are updated with every charge leave half a page free, so that their updates stay on
the page and touch no index.
"""

from tortoise import migrations
from tortoise.migrations import operations as ops

FORWARD = """
CREATE SEQUENCE account_id_seq AS bigint OWNED BY account.id;

ALTER TABLE owner ALTER owner_id TYPE varchar(255) COLLATE "C";

ALTER TABLE account
    ALTER owner_id TYPE varchar(255) COLLATE "C",
    ALTER seq SET DEFAULT 0, ALTER version SET DEFAULT 0, ALTER grants SET DEFAULT 0,
    ALTER posted SET DEFAULT 0, ALTER held SET DEFAULT 0, ALTER frozen SET DEFAULT 0, ALTER owed SET DEFAULT 0,
    ADD CONSTRAINT account_figures CHECK (
        posted BETWEEN 0 AND 9007199254740991 AND held >= 0 AND frozen >= 0 AND owed BETWEEN 0 AND 9007199254740991
        AND held + frozen <= posted AND seq >= 0 AND version >= seq),
    SET (fillfactor = 50);
CREATE INDEX account_due ON account (next_change_at) WHERE next_change_at IS NOT NULL;

ALTER TABLE entry DROP CONSTRAINT entry_pkey;
ALTER TABLE entry
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER block_run_id TYPE varchar(255) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER kind TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.01),
    ADD PRIMARY KEY (account_id, seq),
    ADD CONSTRAINT entry_bounds CHECK (
        credits BETWEEN -9007199254740991 AND 9007199254740991 AND balance_after BETWEEN 0 AND 9007199254740991),
    ADD CONSTRAINT entry_moves CHECK (credits <> 0 OR owed <> 0),
    ADD CONSTRAINT entry_mac CHECK (length(mac) = 32);
-- No charge is written to it: what costs a charge nothing finds everything else without reading past the charges.
CREATE INDEX entry_beside_charges ON entry (account_id, seq) WHERE kind <> 'CHARGE';

ALTER TABLE credit_grant DROP CONSTRAINT credit_grant_pkey;
ALTER TABLE credit_grant
    ALTER source TYPE varchar(16) COLLATE "C", ALTER top_up_id TYPE varchar(64) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, number),
    ADD CONSTRAINT credit_grant_figures CHECK (
        credits BETWEEN 1 AND 9007199254740991 AND remaining BETWEEN 0 AND credits AND claimed BETWEEN 0 AND remaining),
    SET (fillfactor = 50);
CREATE INDEX credit_grant_open ON credit_grant (account_id) WHERE open;

ALTER TABLE operation DROP CONSTRAINT operation_pkey;
ALTER TABLE operation
    ALTER key TYPE varchar(255) COLLATE "C", ALTER kind TYPE varchar(32) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, key);

ALTER TABLE task_account ALTER task_id TYPE varchar(255) COLLATE "C";

ALTER TABLE task DROP CONSTRAINT task_pkey;
ALTER TABLE task
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER parent_task_id TYPE varchar(255) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C", ALTER stop_reason TYPE varchar(32) COLLATE "C", ALTER trigger TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, task_id),
    ADD CONSTRAINT task_figures CHECK (steps >= 0 AND charged >= 0 AND reversed BETWEEN 0 AND charged),
    SET (fillfactor = 50);
-- Always true, and kept from look-ups by (account_id, task_id) by its predicate, which only the reads of agents repeat: on
-- an empty table the planner finds this index as good as the key, and a posting connection would keep that plan.
CREATE INDEX task_of_agent ON task (account_id, agent_id, started_at, task_id) WHERE started_at > '-infinity';
CREATE INDEX task_child ON task (account_id, parent_task_id) WHERE parent_task_id IS NOT NULL;

ALTER TABLE block_run DROP CONSTRAINT block_run_pkey;
ALTER TABLE block_run
    ALTER block_run_id TYPE varchar(255) COLLATE "C", ALTER task_id TYPE varchar(255) COLLATE "C",
    ALTER block TYPE varchar(255) COLLATE "C", ALTER model TYPE varchar(255) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.01), ALTER task_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, block_run_id),
    ADD CONSTRAINT block_run_figures CHECK (
        cost BETWEEN 0 AND 9007199254740991 AND reversed BETWEEN 0 AND cost AND (cost > 0) = (entry_seq IS NOT NULL));
-- Always true, and kept from look-ups by (account_id, block_run_id) by its predicate (see task_of_agent). All three columns:
-- with task_id alone the planner joins it, by bitmaps, with every key of the account (90 ms instead of 1 at 10^5 block runs).
CREATE UNIQUE INDEX block_run_of_task ON block_run (account_id, task_id, position) WHERE position > 0;

ALTER TABLE top_up DROP CONSTRAINT top_up_pkey;
ALTER TABLE top_up
    ALTER id TYPE varchar(64) COLLATE "C", ALTER status TYPE varchar(16) COLLATE "C",
    ADD PRIMARY KEY (account_id, id),
    ADD CONSTRAINT top_up_figures CHECK (credits > 0 AND amount_minor > 0 AND refunded BETWEEN 0 AND credits);
CREATE INDEX top_up_newest ON top_up (account_id, created_at, id);
CREATE INDEX top_up_pending ON top_up (created_at) WHERE status = 'PENDING';

ALTER TABLE provider_notice ALTER event_id TYPE varchar(255) COLLATE "C";

ALTER TABLE sandbox_payment
    ALTER reference TYPE varchar(255) COLLATE "C", ALTER provider_ref TYPE varchar(255) COLLATE "C",
    ALTER state TYPE varchar(16) COLLATE "C",
    ADD CONSTRAINT sandbox_payment_figures CHECK (amount_minor > 0 AND (state = 'OPEN') = (decided_at IS NULL));

CREATE FUNCTION entry_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries are never changed or deleted: write a reversal or an adjustment'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER entry_is_final BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION entry_is_final();
CREATE TRIGGER entries_are_final BEFORE TRUNCATE ON entry FOR EACH STATEMENT EXECUTE FUNCTION entry_is_final();
"""

# Back to what 0001 made; the collations stay, Tortoise does not know them.
BACKWARD = """
DROP TRIGGER entries_are_final ON entry;
DROP TRIGGER entry_is_final ON entry;
DROP FUNCTION entry_is_final();
DROP INDEX entry_beside_charges, top_up_pending, top_up_newest, block_run_of_task, task_child, task_of_agent, credit_grant_open, account_due;
ALTER TABLE account DROP CONSTRAINT account_figures;
ALTER TABLE entry DROP CONSTRAINT entry_bounds, DROP CONSTRAINT entry_moves, DROP CONSTRAINT entry_mac;
ALTER TABLE credit_grant DROP CONSTRAINT credit_grant_figures;
ALTER TABLE task DROP CONSTRAINT task_figures;
ALTER TABLE block_run DROP CONSTRAINT block_run_figures;
ALTER TABLE top_up DROP CONSTRAINT top_up_figures;
ALTER TABLE sandbox_payment DROP CONSTRAINT sandbox_payment_figures;
DROP SEQUENCE account_id_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0001_initial")]

    operations = [ops.RunSQL(FORWARD, reverse_sql=BACKWARD)]
