"""Block runs: what was executed, and what it cost."""

from collections.abc import Sequence
from datetime import datetime

import strawberry
from strawberry.scalars import JSON

from app.graphql import access, nodes
from app.graphql.access import Permission
from app.graphql.context import Context, ResolverInfo
from app.graphql.entries import Entry, load_entry, to_entry
from app.graphql.enums import describe_enum
from app.graphql.scalars import Credits, to_json
from app.graphql.sight import readable_owners
from app.ledger.book import LedgerEntry
from app.pricing.outcomes import BlockRunOutcome
from app.tasks import costs, sight
from app.tasks.rules import BlockRunState

describe_enum(
    BlockRunOutcome,
    name="BlockRunOutcome",
    description="How a block run ended.",
    values={
        BlockRunOutcome.SUCCEEDED: "It did its work.",
        BlockRunOutcome.FAILED: "It failed.",
        BlockRunOutcome.CANCELLED: "It was cancelled.",
        BlockRunOutcome.PROVIDER_FAILED: "The provider behind it failed.",
    },
)


@access.type(description="One execution of one block inside a task.", needs=Permission.INHERITED)
class BlockRun(nodes.Node):
    block_run_id: strawberry.ID = access.value(description="The platform's id of the execution.")
    block: str = access.value(description="The block.")
    model: str | None = access.value(description="The language model, where the price went by it.")
    cost: Credits = access.value(description="What it was charged: reversals stand in entries of their own.")
    uses_own_key: bool = access.value(description="Whether it used the customer's own provider key, and so cost 0.")
    at: datetime = access.value(description="When it was charged.")
    rate_card_version: int = access.value(description="The rate card that priced it.")
    rule: JSON | None = access.value(description="The rule of that card that said so.")
    outcome: BlockRunOutcome | None = access.value(description="How it ended; null until its executor has said so.")
    finished_at: datetime | None = access.value(description="When its executor said so.")
    state: strawberry.Private[BlockRunState]
    posted: strawberry.Private[LedgerEntry | None] = None

    @access.field(description="Its charge in the account; null at cost 0.")
    async def entry(self, info: ResolverInfo) -> Entry | None:
        if self.posted is not None:
            return to_entry(self.posted)
        if self.state.entry_seq is None:
            return None
        return await load_entry(info.context, self.state.account_id, self.state.entry_seq)


def to_block_run(state: BlockRunState, posted: LedgerEntry | None = None) -> BlockRun:
    """A block run as GraphQL shows it; with its entry, where that is at hand."""
    return BlockRun(
        id=nodes.encode_id("BlockRun", state.account_id, state.block_run_id),
        block_run_id=strawberry.ID(state.block_run_id),
        block=state.block,
        model=state.model,
        cost=Credits(state.cost),
        uses_own_key=state.uses_own_key,
        at=state.charged_at,
        rate_card_version=state.price_version,
        rule=to_json(state.rule),
        outcome=state.outcome,
        finished_at=state.finished_at,
        state=state,
        posted=posted,
    )


async def load_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    """A block run by its key, batched with the others of this request."""
    state = await context.data_loader(_block_runs).load((account_id, block_run_id))
    return to_block_run(state) if state else None


@nodes.node_fetcher("BlockRun", int, str)
async def fetch_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    state = await sight.find_block_run(
        account_id, block_run_id, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_block_run(state) if state else None


async def _block_runs(keys: list[tuple[int, str]]) -> Sequence[BlockRunState | None]:
    found = await costs.block_runs_by_id(keys)
    return [found.get(key) for key in keys]
