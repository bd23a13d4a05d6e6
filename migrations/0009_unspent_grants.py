"""An index of the entries by which credits leave a grant unspent, for refunds in accounts with a long history."""

from tortoise import migrations
from tortoise.migrations import operations as ops

# Such an entry has one draw, [grant number, credits].
INDEX = """
CREATE INDEX entry_unspent ON entry (account_id, ((draws->0->>0)::int)) WHERE kind IN ('EXPIRY', 'ADJUSTMENT');
"""

UNDO = """
DROP INDEX entry_unspent;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0008_ledger_key_ids")]

    operations = [ops.RunSQL(INDEX, reverse_sql=UNDO)]
