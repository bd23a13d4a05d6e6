"""Instants after the year 9998, which were accepted before: `infinity` cannot be read back, and made accounts unusable.

An expiry so late is no expiry. A start so early is no start. A rate card keeps a time that is never reached. Entries
and other rows contain only the database's own time.
"""

from tortoise import migrations
from tortoise.migrations import operations as ops

REPAIR = """
UPDATE credit_grant SET expires_at = NULL WHERE expires_at > '9999-01-01 00:00:00+00';
UPDATE credit_grant SET starts_at = NULL WHERE starts_at = '-infinity';
UPDATE credit_grant SET starts_at = '9999-01-01 00:00:00+00' WHERE starts_at = 'infinity';
UPDATE account SET next_change_at = NULL WHERE next_change_at = 'infinity';
UPDATE account SET next_change_at = clock_timestamp() WHERE next_change_at = '-infinity';
UPDATE hold SET expires_at = placed_at + timeout_seconds * interval '1 second'
    WHERE expires_at IN ('infinity', '-infinity');
UPDATE service_key SET expires_at = NULL WHERE expires_at = 'infinity';
UPDATE service_key SET expires_at = created_at WHERE expires_at = '-infinity';
UPDATE rate_card SET effective_at = '9999-12-31 00:00:00+00' WHERE effective_at = 'infinity';
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0009_unspent_grants")]

    operations = [ops.RunSQL(REPAIR, reverse_sql="SELECT 1")]
