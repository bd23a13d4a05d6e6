"""The trail of operators and services, append-only as the entries are; and at most two active keys of one name.

The triggers stop even the owner of the tables; the application's role may not so much as ask (app/db/roles.py).
"""

from orjson import loads
from tortoise import fields, migrations
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops

FORWARD = """
CREATE SEQUENCE audit_record_id_seq AS bigint OWNED BY audit_record.id;
ALTER TABLE audit_record
    ALTER id SET DEFAULT nextval('audit_record_id_seq'),
    ALTER action TYPE varchar(32) COLLATE "C", ALTER actor TYPE varchar(300) COLLATE "C",
    ADD CONSTRAINT audit_record_says_who CHECK (actor <> '' AND action <> '' AND scope <> '');
CREATE INDEX audit_record_of_account ON audit_record (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_record_of_actor ON audit_record (actor, id);
CREATE INDEX audit_record_of_action ON audit_record (action, id);

CREATE FUNCTION audit_record_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'records of the trail are never changed or deleted'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_record_is_final BEFORE UPDATE OR DELETE ON audit_record
    FOR EACH ROW EXECUTE FUNCTION audit_record_is_final();
CREATE TRIGGER audit_records_are_final BEFORE TRUNCATE ON audit_record
    FOR EACH STATEMENT EXECUTE FUNCTION audit_record_is_final();

-- Two keys of one name may be active, for a rotation: each has a place, 1 or 2. Keys made before have none.
ALTER TABLE api_key ADD CONSTRAINT api_key_place CHECK (place IN (1, 2));
CREATE UNIQUE INDEX api_key_active ON api_key (name, place) WHERE revoked_at IS NULL AND place IS NOT NULL;
"""

BACKWARD = """
DROP INDEX api_key_active;
ALTER TABLE api_key DROP CONSTRAINT api_key_place;
DROP TRIGGER audit_records_are_final ON audit_record;
DROP TRIGGER audit_record_is_final ON audit_record;
DROP FUNCTION audit_record_is_final();
DROP INDEX audit_record_of_action, audit_record_of_actor, audit_record_of_account;
ALTER TABLE audit_record DROP CONSTRAINT audit_record_says_who, ALTER id DROP DEFAULT;
DROP SEQUENCE audit_record_id_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0011_keys_of_saved_cards")]

    initial = False

    operations = [
        ops.CreateModel(
            name="AuditRecord",
            fields=[
                ("id", fields.BigIntField(primary_key=True, generated=False, unique=True, db_index=True)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("account_id", fields.BigIntField(null=True)),
                ("action", fields.CharField(max_length=32)),
                ("subject", fields.TextField(unique=False)),
                ("actor", fields.CharField(max_length=300)),
                ("key_id", fields.CharField(null=True, max_length=255)),
                ("scope", fields.CharField(max_length=64)),
                ("request_id", fields.CharField(null=True, max_length=64)),
                ("reason", fields.TextField(null=True, unique=False)),
                ("before", fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads)),
                ("after", fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads)),
            ],
            options={
                "table": "audit_record",
                "app": "credits",
                "pk_attr": "id",
                "table_description": "What an operator or a service did. Grants to the application's role and triggers "
                "refuse its change.",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="ApiKey",
            name="place",
            field=fields.IntField(null=True, description="1 or 2 among the active keys of its name; null: not counted."),
        ),
        ops.RunSQL(FORWARD, reverse_sql=BACKWARD),
    ]
