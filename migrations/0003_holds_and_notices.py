from tortoise import migrations
from tortoise.migrations import operations as ops
from orjson import loads
from tortoise.fields.data import JSON_DUMPS
from tortoise import fields

class Migration(migrations.Migration):
    dependencies = [('credits', '0002_true_keys')]

    initial = False

    operations = [
        ops.CreateModel(
            name='Hold',
            fields=[
                ('account_id', fields.BigIntField()),
                ('number', fields.IntField(primary_key=True, generated=False, unique=True, db_index=True)),
                ('task_id', fields.CharField(max_length=255)),
                ('block_run_id', fields.CharField(null=True, max_length=255)),
                ('within', fields.IntField(null=True)),
                ('credits', fields.BigIntField()),
                ('captured', fields.BigIntField()),
                ('released', fields.BigIntField()),
                ('lent', fields.BigIntField()),
                ('reserve', fields.BigIntField()),
                ('claims', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('remaining', fields.BigIntField()),
                ('status', fields.CharField(max_length=16)),
                ('timeout_seconds', fields.IntField()),
                ('placed_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('expires_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('closed_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('terms', fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads)),
                ('priced', fields.BigIntField(null=True)),
                ('fingerprint', fields.BinaryField(null=True)),
                ('capture_fingerprint', fields.BinaryField(null=True)),
                ('actor', fields.TextField(unique=False)),
            ],
            options={'table': 'hold', 'app': 'credits', 'pk_attr': 'number', 'table_description': 'Credits claimed for one block run, or for a whole task (`block_run_id` is null: an envelope).'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Notice',
            fields=[
                ('account_id', fields.BigIntField()),
                ('number', fields.IntField(primary_key=True, generated=False, unique=True, db_index=True)),
                ('kind', fields.CharField(max_length=32)),
                ('agent_id', fields.CharField(max_length=255)),
                ('subject', fields.CharField(max_length=64)),
                ('message', fields.TextField(unique=False)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('read_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('cleared_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'notice', 'app': 'credits', 'pk_attr': 'number', 'table_description': 'What a person is told about an account. One stands per kind, agent and subject until it is cleared.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SkippedTick',
            fields=[
                ('account_id', fields.BigIntField()),
                ('task_id', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=255)),
                ('agent_id', fields.CharField(max_length=255)),
                ('reason', fields.CharField(max_length=32)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'skipped_tick', 'app': 'credits', 'pk_attr': 'task_id', 'table_description': 'A scheduled run that did not start for want of credits. No task exists; the same tick may start later.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Account',
            name='holds',
            field=fields.IntField(default=0),
        ),
        ops.AddField(
            model_name='Account',
            name='notices',
            field=fields.IntField(default=0),
        ),
        ops.AddField(
            model_name='Account',
            name='open_holds',
            field=fields.IntField(default=0),
        ),
        ops.AddField(
            model_name='Entry',
            name='hold',
            field=fields.IntField(null=True),
        ),
        ops.AddField(
            model_name='Task',
            name='envelope',
            field=fields.IntField(null=True),
        ),
        ops.AddField(
            model_name='Task',
            name='required',
            field=fields.BigIntField(null=True),
        ),
    ]
