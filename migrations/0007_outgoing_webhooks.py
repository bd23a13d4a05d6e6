"""Webhook endpoints, and their deliveries."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

KEYS = """
CREATE SEQUENCE webhook_delivery_id_seq AS bigint OWNED BY webhook_delivery.id;
ALTER TABLE webhook_delivery DROP CONSTRAINT webhook_delivery_pkey;
ALTER TABLE webhook_delivery
    ALTER id SET DEFAULT nextval('webhook_delivery_id_seq'), ALTER attempts SET DEFAULT 0,
    ALTER endpoint_id TYPE varchar(32) COLLATE "C", ALTER event_id TYPE varchar(64) COLLATE "C",
    ALTER event_type TYPE varchar(64) COLLATE "C",
    ADD PRIMARY KEY (account_id, id),
    ADD CONSTRAINT webhook_delivery_ended CHECK (attempts >= 0 AND (delivered_at IS NULL OR failed_at IS NULL)),
    SET (fillfactor = 70);
CREATE INDEX webhook_delivery_id ON webhook_delivery (id);
CREATE INDEX webhook_delivery_of_endpoint ON webhook_delivery (endpoint_id, id);
CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, next_attempt_at)
    WHERE delivered_at IS NULL AND failed_at IS NULL;
-- Finds earlier deliveries of the same account, for endpoints with in_order.
CREATE INDEX webhook_delivery_pending ON webhook_delivery (endpoint_id, account_id, id)
    WHERE delivered_at IS NULL AND failed_at IS NULL;
CREATE INDEX webhook_delivery_ended ON webhook_delivery (id) WHERE delivered_at IS NOT NULL OR failed_at IS NOT NULL;

ALTER TABLE webhook_endpoint
    ALTER id TYPE varchar(32) COLLATE "C", ALTER failures SET DEFAULT 0,
    ADD CONSTRAINT webhook_endpoint_figures CHECK (failures >= 0 AND jsonb_typeof(event_types) = 'array');
CREATE UNIQUE INDEX webhook_endpoint_url ON webhook_endpoint (url) WHERE disabled_at IS NULL;
"""


class Migration(migrations.Migration):
    dependencies = [("credits", "0006_task_shortfall")]

    operations = [
        ops.CreateModel(
            name="WebhookDelivery",
            fields=[
                ("account_id", fields.BigIntField()),
                ("id", fields.BigIntField(primary_key=True, generated=False)),
                ("endpoint_id", fields.CharField(max_length=32)),
                ("event_id", fields.CharField(max_length=64)),
                ("event_type", fields.CharField(max_length=64)),
                ("payload", fields.TextField()),
                ("created_at", fields.DatetimeField()),
                ("attempts", fields.IntField(default=0)),
                ("next_attempt_at", fields.DatetimeField()),
                ("delivered_at", fields.DatetimeField(null=True)),
                ("failed_at", fields.DatetimeField(null=True)),
                ("last_status", fields.IntField(null=True)),
                ("last_error", fields.TextField(null=True)),
            ],
            options={
                "table": "webhook_delivery",
                "app": "credits",
                "pk_attr": "id",
                "table_description": "One event for one endpoint. It is pending until it is delivered or given up.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="WebhookEndpoint",
            fields=[
                ("id", fields.CharField(max_length=32, primary_key=True)),
                ("url", fields.CharField(max_length=2048)),
                ("description", fields.CharField(max_length=255)),
                ("event_types", fields.JSONField()),
                ("in_order", fields.BooleanField()),
                ("secret", fields.BinaryField()),
                ("previous_secret", fields.BinaryField(null=True)),
                ("previous_secret_until", fields.DatetimeField(null=True)),
                ("created_at", fields.DatetimeField()),
                ("disabled_at", fields.DatetimeField(null=True)),
                ("disabled_reason", fields.TextField(null=True)),
                ("failing_since", fields.DatetimeField(null=True)),
                ("failures", fields.IntField(default=0)),
                ("retry_at", fields.DatetimeField(null=True)),
            ],
            options={
                "table": "webhook_endpoint",
                "app": "credits",
                "pk_attr": "id",
                "table_description": "A URL that receives events. `event_types` is empty if it receives all. "
                "Disabled endpoints receive none.",
            },
            bases=["Model"],
        ),
        ops.RunSQL(KEYS, reverse_sql=""),
    ]
