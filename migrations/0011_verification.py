"""Results of ledger verifications, for the metrics."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

KEYS = """
CREATE SEQUENCE verification_id_seq AS bigint OWNED BY verification.id;
ALTER TABLE verification
    ALTER id SET DEFAULT nextval('verification_id_seq'),
    ADD CONSTRAINT verification_figures CHECK (accounts >= 0 AND entries >= 0 AND violations >= 0);
CREATE INDEX verification_newest ON verification (finished_at);
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0010_finite_instants")]

    operations = [
        ops.CreateModel(
            name="Verification",
            fields=[
                ("id", fields.BigIntField(primary_key=True, generated=False)),
                ("finished_at", fields.DatetimeField()),
                ("is_intact", fields.BooleanField()),
                ("accounts", fields.BigIntField()),
                ("entries", fields.BigIntField()),
                ("violations", fields.BigIntField()),
            ],
            options={
                "table": "verification",
                "app": "credits",
                "pk_attr": "id",
                "table_description": "The result of one verification of the whole ledger. Rows are never changed.",
            },
            bases=["Model"],
        ),
        ops.RunSQL(KEYS, reverse_sql=""),
    ]
