from tortoise import migrations
from tortoise.migrations import operations as ops
from orjson import loads
from tortoise.fields.data import JSON_DUMPS
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('credits', '0005_outcomes')]

    initial = False

    operations = [
        ops.CreateModel(
            name='AutoTopUp',
            fields=[
                ('account_id', fields.BigIntField(primary_key=True, generated=False, unique=True, db_index=True)),
                ('enabled', fields.BooleanField()),
                ('threshold', fields.BigIntField(null=True)),
                ('amount', fields.BigIntField(null=True)),
                ('up_to', fields.BigIntField(null=True)),
                ('max_per_day', fields.BigIntField(null=True)),
                ('max_per_month', fields.BigIntField(null=True)),
                ('max_count_per_day', fields.IntField(null=True)),
                ('max_count_per_month', fields.IntField(null=True)),
                ('consent_version', fields.CharField(null=True, max_length=64)),
                ('consent_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('consent_actor', fields.TextField(null=True, unique=False)),
                ('declines', fields.IntField(default=0)),
                ('blocked_reason', fields.CharField(null=True, max_length=32)),
                ('next_eligible_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('changed_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'auto_top_up', 'app': 'credits', 'pk_attr': 'account_id', 'table_description': "When an account buys credits by itself: only ever on by its owner's own word."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Dispute',
            fields=[
                ('account_id', fields.BigIntField()),
                ('dispute_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('top_up_id', fields.CharField(max_length=64)),
                ('credits', fields.BigIntField()),
                ('amount_minor', fields.BigIntField()),
                ('status', fields.CharField(max_length=16)),
                ('opened_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('decided_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'dispute', 'app': 'credits', 'pk_attr': 'dispute_ref', 'table_description': "A payment whose buyer's bank wants it back. The true key is (account_id, dispute_ref)."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='PaymentCustomer',
            fields=[
                ('account_id', fields.BigIntField()),
                ('provider', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=16)),
                ('customer_ref', fields.CharField(max_length=255)),
                ('card_ref', fields.CharField(null=True, max_length=255)),
                ('card_label', fields.CharField(null=True, max_length=64)),
                ('card_saved_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'payment_customer', 'app': 'credits', 'pk_attr': 'provider', 'table_description': 'An account at a provider, with the card that it keeps for it. The true key is (account_id, provider).'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='ProviderPayment',
            fields=[
                ('payment_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('account_id', fields.BigIntField()),
                ('top_up_id', fields.CharField(max_length=64)),
            ],
            options={'table': 'provider_payment', 'app': 'credits', 'pk_attr': 'payment_ref', 'table_description': "Which top-up a provider's payment paid: the small table for notices that name only the payment."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='TopUpRefund',
            fields=[
                ('account_id', fields.BigIntField()),
                ('id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ('top_up_id', fields.CharField(max_length=64)),
                ('credits', fields.BigIntField()),
                ('debt_credits', fields.BigIntField()),
                ('bonus_credits', fields.BigIntField()),
                ('amount_minor', fields.BigIntField()),
                ('status', fields.CharField(max_length=16)),
                ('refund_ref', fields.CharField(null=True, max_length=255)),
                ('reason', fields.TextField(unique=False)),
                ('actor', fields.TextField(unique=False)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('decided_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('asked_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'top_up_refund', 'app': 'credits', 'pk_attr': 'id', 'table_description': 'Money that goes back for a top-up. The true key is (account_id, id).'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Grant',
            name='pays_debt',
            field=fields.BooleanField(default=True),
        ),
        ops.AddField(
            model_name='ProviderNotice',
            name='next_attempt_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='ProviderNotice',
            name='parked_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='asked_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='automatic',
            field=fields.BooleanField(default=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='bonus_credits',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUp',
            name='clawed_back',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUp',
            name='decline_reason',
            field=fields.CharField(null=True, max_length=64),
        ),
        ops.AddField(
            model_name='TopUp',
            name='live',
            field=fields.BooleanField(default=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='payment_ref',
            field=fields.CharField(null=True, max_length=255),
        ),
        ops.AddField(
            model_name='TopUp',
            name='refunded_minor',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUp',
            name='saves_card',
            field=fields.BooleanField(default=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='tax_lines',
            field=fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads),
        ),
    ]
