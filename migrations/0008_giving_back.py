from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('credits', '0007_keys_of_money')]

    initial = False

    operations = [
        ops.CreateModel(
            name='SandboxDispute',
            fields=[
                ('payment_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('state', fields.CharField(max_length=16)),
                ('opened_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'sandbox_dispute', 'app': 'credits', 'pk_attr': 'payment_ref', 'table_description': 'What the sandbox provider remembers of a payment that its buyer disputes: one for each payment.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SandboxRefund',
            fields=[
                ('refund_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('reference', fields.CharField(null=True, unique=True, max_length=255)),
                ('payment_ref', fields.CharField(max_length=255)),
                ('amount_minor', fields.BigIntField()),
                ('currency', fields.CharField(max_length=3)),
                ('state', fields.CharField(max_length=16)),
                ('created_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'sandbox_refund', 'app': 'credits', 'pk_attr': 'refund_ref', 'table_description': 'What the sandbox provider remembers of money that it gave back, or refused to.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Dispute',
            name='bonus_credits',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='Dispute',
            name='bonus_expired',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='Dispute',
            name='bonus_spent',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='SandboxPayment',
            name='refunded_minor',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUpRefund',
            name='bonus_expired',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUpRefund',
            name='bonus_spent',
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name='TopUpRefund',
            name='reduced_minor',
            field=fields.BigIntField(default=0),
        ),
    ]
