from tortoise import migrations
from tortoise.migrations import operations as ops
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('credits', '0009_keys_of_giving_back')]

    initial = False

    operations = [
        ops.CreateModel(
            name='SandboxCard',
            fields=[
                ('card_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('customer_ref', fields.CharField(max_length=255)),
                ('behaviour', fields.CharField(max_length=16)),
            ],
            options={'table': 'sandbox_card', 'app': 'credits', 'pk_attr': 'card_ref', 'table_description': 'A card that the sandbox provider keeps. `behaviour`: what becomes of payments with it, see sandbox.cards.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SandboxCustomer',
            fields=[
                ('customer_ref', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('reference', fields.CharField(unique=True, max_length=255)),
            ],
            options={'table': 'sandbox_customer', 'app': 'credits', 'pk_attr': 'customer_ref', 'table_description': 'Whom the sandbox provider knows: `reference` is ours.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='AutoTopUp',
            name='looked_at',
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name='SandboxPayment',
            name='card_ref',
            field=fields.CharField(null=True, max_length=255),
        ),
        ops.AddField(
            model_name='SandboxPayment',
            name='customer_ref',
            field=fields.CharField(null=True, max_length=255),
        ),
        ops.AddField(
            model_name='SandboxPayment',
            name='saves_card',
            field=fields.BooleanField(default=False),
        ),
        ops.AddField(
            model_name='TopUp',
            name='bonus_days',
            field=fields.IntField(null=True),
        ),
    ]
