"""What Tortoise cannot say of holds and notices: see 0002_true_keys."""

from tortoise import migrations
from tortoise.migrations import operations as ops

FORWARD = """
ALTER TABLE account ALTER holds SET DEFAULT 0, ALTER open_holds SET DEFAULT 0, ALTER notices SET DEFAULT 0,
    ADD CONSTRAINT account_counters CHECK (holds >= open_holds AND open_holds >= 0 AND notices >= 0);

ALTER TABLE hold DROP CONSTRAINT hold_pkey;
ALTER TABLE hold
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER block_run_id TYPE varchar(255) COLLATE "C",
    ALTER status TYPE varchar(16) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.1),
    ADD PRIMARY KEY (account_id, number),
    ADD CONSTRAINT hold_figures CHECK (
        credits BETWEEN 0 AND 9007199254740991 AND captured >= 0 AND released >= 0 AND lent >= 0 AND remaining >= 0
        AND reserve >= 0 AND credits = captured + released + remaining + lent AND within < number),
    ADD CONSTRAINT hold_closed CHECK ((status = 'OPEN') = (closed_at IS NULL) AND (status = 'OPEN' OR remaining = 0)),
    SET (fillfactor = 50);
-- What time alone will release: read by every posting of an account that has open holds.
CREATE INDEX hold_open ON hold (account_id, expires_at) WHERE status = 'OPEN';
-- Its second condition is always true and only its own readers repeat it: see task_of_agent in 0002.
CREATE INDEX hold_open_of_task ON hold (account_id, task_id) WHERE status = 'OPEN' AND timeout_seconds > 0;
CREATE UNIQUE INDEX hold_of_block_run ON hold (account_id, block_run_id) WHERE block_run_id IS NOT NULL;
-- One envelope per task, however often it is filled.
CREATE UNIQUE INDEX hold_envelope ON hold (account_id, task_id) WHERE block_run_id IS NULL;

ALTER TABLE task
    ADD CONSTRAINT task_lack CHECK (required >= lacked AND lacked >= 0);
CREATE INDEX task_running ON task (account_id) WHERE status = 'RUNNING';
CREATE INDEX task_stopped ON task (account_id, started_at, task_id) WHERE status = 'STOPPED';
CREATE INDEX task_in_envelope ON task (account_id, envelope) WHERE envelope IS NOT NULL;

ALTER TABLE notice DROP CONSTRAINT notice_pkey;
ALTER TABLE notice
    ALTER kind TYPE varchar(32) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER subject TYPE varchar(64) COLLATE "C",
    ALTER account_id SET (n_distinct = -0.2),
    ADD PRIMARY KEY (account_id, number);
CREATE UNIQUE INDEX notice_standing ON notice (account_id, kind, agent_id, subject) WHERE cleared_at IS NULL;
CREATE INDEX notice_unread ON notice (account_id, number) WHERE read_at IS NULL;

ALTER TABLE skipped_tick DROP CONSTRAINT skipped_tick_pkey;
ALTER TABLE skipped_tick
    ALTER task_id TYPE varchar(255) COLLATE "C", ALTER agent_id TYPE varchar(255) COLLATE "C",
    ALTER reason TYPE varchar(32) COLLATE "C",
    ADD PRIMARY KEY (account_id, task_id);
-- Always true: see task_of_agent in 0002.
CREATE INDEX skipped_tick_of_agent ON skipped_tick (account_id, agent_id, at, task_id) WHERE at > '-infinity';

CREATE INDEX credit_grant_expiring ON credit_grant (expires_at) WHERE open AND started AND expires_at IS NOT NULL;
"""

BACKWARD = """
DROP INDEX credit_grant_expiring, skipped_tick_of_agent, notice_unread, notice_standing, task_in_envelope, task_stopped, task_running, hold_envelope, hold_of_block_run, hold_open_of_task, hold_open;
ALTER TABLE account DROP CONSTRAINT account_counters;
ALTER TABLE hold DROP CONSTRAINT hold_figures, DROP CONSTRAINT hold_closed;
ALTER TABLE task DROP CONSTRAINT task_lack;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0003_holds_and_notices")]

    operations = [ops.RunSQL(FORWARD, reverse_sql=BACKWARD)]
