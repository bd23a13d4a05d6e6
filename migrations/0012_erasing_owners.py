"""`python -m app erase` replaces an owner id in entries and audit records. Figures still cannot change."""

from tortoise import migrations
from tortoise.migrations import operations as ops

# A transaction sets `credits.erased_account`, and then may change these columns in rows of that account. The application's
# role has no privilege to update these tables.
ERASURE = """
CREATE OR REPLACE FUNCTION reject_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    erasable CONSTANT text[] := ARRAY['actor', 'reason', 'task_id', 'block_run_id', 'request_id', 'mac', 'key_id',
                                      'subject', 'before', 'after'];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF current_setting('credits.erased_account', true) = OLD.account_id::text
           AND to_jsonb(NEW) - erasable = to_jsonb(OLD) - erasable THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""

UNDO = """
CREATE OR REPLACE FUNCTION reject_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0011_verification")]

    operations = [ops.RunSQL(ERASURE, reverse_sql=UNDO)]
