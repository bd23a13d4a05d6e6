"""Outgoing webhooks, for operators: endpoints, their secrets, and deliveries."""

from datetime import datetime
from typing import Annotated, Final

import strawberry

from app.api.context import ResolverInfo, audit_context
from app.api.input_checks import check_input_ids, check_list_length
from app.api.objects import build_from
from app.api.results import mutation
from app.engine import declare
from app.engine.global_ids import LONG
from app.engine.pagination import After, Connection, First, paginate
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import Long
from app.errors import InvalidInput, WebhookEndpointNotFound
from app.ledger.account_events import EVENTS
from app.outgoing_webhooks import deliveries, endpoints, models

MAX_DELIVERY_ID: Final = 2**63 - 1

OnlyFailed = Annotated[bool, strawberry.argument(description="Whether to list only deliveries that were given up.")]


@declare.type(description="An event that an endpoint receives.", needs=Permission.INHERITED)
class WebhookDelivery:
    id: Long = declare.value(description="The id, for `redeliverWebhook`.")
    event_id: str = declare.value(
        description="The id of the event, the header `webhook-id`. It is the same in every attempt."
    )
    event_type: str = declare.value(description="The type of the event, such as `balance.low`.")
    payload: str = declare.value(description="The body, which is JSON.")
    created_at: datetime = declare.value(description="When the event happened.")
    attempts: int = declare.value(description="The number of attempts so far.")
    next_attempt_at: datetime | None = declare.value(description="When the next attempt is due; null if it has ended.")
    delivered_at: datetime | None = declare.value(description="When the receiver accepted it.")
    failed_at: datetime | None = declare.value(description="When it was given up.")
    last_status: int | None = declare.value(description="The HTTP status of the last attempt, if there was a response.")
    last_error: str | None = declare.value(description="Why the last attempt failed; null if it did not.")


@declare.type(description="A URL that receives events of all accounts.", needs=Permission.INHERITED)
class WebhookEndpoint:
    id: strawberry.ID = declare.value(description="The id.")
    url: str = declare.value(description="The URL.")
    description: str = declare.value(description="A text for people.")
    event_types: list[str] = declare.value(description="The types that it receives; empty if it receives all.")
    in_order: bool = declare.value(
        description="Whether an event of an account waits until earlier events of the account have ended."
    )
    created_at: datetime = declare.value(description="When it was created.")
    disabled_at: datetime | None = declare.value(description="When it was disabled; null if it is enabled.")
    disabled_reason: str | None = declare.value(description="Why it was disabled.")
    failing_since: datetime | None = declare.value(
        description="Since when all attempts have failed; null if the last one was successful."
    )

    @declare.field(description="Its deliveries of the last 30 days, newest first.")
    async def deliveries(
        self, first: First = 25, after: After = None, *, only_failed: OnlyFailed = False
    ) -> Connection[WebhookDelivery]:
        return await paginate(
            "webhookDeliveries",
            self.id,
            (LONG,),
            first=first,
            after=after,
            filters={"onlyFailed": only_failed},
            read=lambda limit, position: deliveries.list_deliveries(
                self.id,
                before_id=position[0] if position else MAX_DELIVERY_ID,
                limit=limit,
                only_failed=only_failed,
            ),
            position_of=lambda row: (row.id,),
            node_of=to_delivery,
        )


@strawberry.input(description="The endpoint to create.")
class CreateWebhookEndpointInput:
    url: str = strawberry.field(description="An https URL of the public internet, without user or password.")
    description: str = strawberry.field(default="", description="A text for people, at most 255 characters.")
    event_types: list[str] | None = strawberry.field(
        default=None, description=f"The types to receive; null means all. Types: {', '.join(sorted(EVENTS))}."
    )
    in_order: bool = strawberry.field(
        default=False,
        description="Whether an event of an account waits until earlier events of the account have ended. Without it, "
        "events may arrive in another order.",
    )


@declare.type(description="The endpoint receives events from now on.", needs=Permission.INHERITED)
class CreateWebhookEndpointSuccess:
    endpoint: WebhookEndpoint = declare.value(description="The endpoint.")
    secret: str = declare.value(description="The secret that signs its events, `whsec_…`. It is not shown again.")


@declare.type(description="The secret was replaced.", needs=Permission.INHERITED)
class RotateWebhookSecretSuccess:
    endpoint: WebhookEndpoint = declare.value(description="The endpoint.")
    secret: str = declare.value(
        description="The new secret. It is not shown again. For 24 hours the previous secret signs as well."
    )


@declare.type(description="The endpoint is disabled.", needs=Permission.INHERITED)
class DisableWebhookEndpointSuccess:
    endpoint: WebhookEndpoint = declare.value(description="The endpoint.")


@declare.type(description="The endpoint is enabled.", needs=Permission.INHERITED)
class EnableWebhookEndpointSuccess:
    endpoint: WebhookEndpoint = declare.value(description="The endpoint.")


@declare.type(description="The delivery is sent again.", needs=Permission.INHERITED)
class RedeliverWebhookSuccess:
    delivery: WebhookDelivery = declare.value(description="The delivery.")


@strawberry.input(description="The endpoint whose secret is replaced.")
class RotateWebhookSecretInput:
    endpoint_id: strawberry.ID = strawberry.field(description="The id of the endpoint.")


@strawberry.input(description="The endpoint to disable.")
class DisableWebhookEndpointInput:
    endpoint_id: strawberry.ID = strawberry.field(description="The id of the endpoint.")
    reason: str = strawberry.field(description="Why, for people: 1 to 255 characters.")


@strawberry.input(description="The endpoint to enable.")
class EnableWebhookEndpointInput:
    endpoint_id: strawberry.ID = strawberry.field(description="The id of the endpoint.")


@strawberry.input(description="The delivery to send again.")
class RedeliverWebhookInput:
    delivery_id: Long = strawberry.field(description="The id of the delivery.")


@strawberry.type(description="Queries for outgoing webhooks.")
class WebhookQueries:
    @declare.query(
        needs=Permission.OPERATOR, description="All webhook endpoints, also disabled ones, in the order of creation."
    )
    async def webhook_endpoints(self) -> list[WebhookEndpoint]:
        return [to_endpoint(row) for row in await endpoints.list_endpoints()]


@strawberry.type(description="Mutations of outgoing webhooks.")
class WebhookMutations:
    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Create a webhook endpoint. A URL can have one enabled endpoint, so no idempotency key is needed.",
        errors=(InvalidInput,),
    )
    async def create_webhook_endpoint(
        self, info: ResolverInfo, input: CreateWebhookEndpointInput
    ) -> CreateWebhookEndpointSuccess:
        if input.event_types is not None:
            check_list_length(input.event_types, name="input.eventTypes", limit=len(EVENTS))
        state = info.context.state
        endpoint, secret = await endpoints.create_endpoint(
            input.url,
            box=state.webhook_secrets,
            allow_private=state.settings.environment == "development",
            description=input.description,
            event_types=input.event_types or (),
            in_order=input.in_order,
            audit=audit_context(info),
        )
        return CreateWebhookEndpointSuccess(endpoint=to_endpoint(endpoint), secret=secret)

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Replace the secret of a webhook endpoint. For 24 hours both secrets sign.",
        errors=(WebhookEndpointNotFound,),
    )
    async def rotate_webhook_secret(
        self, info: ResolverInfo, input: RotateWebhookSecretInput
    ) -> RotateWebhookSecretSuccess:
        check_input_ids(input, "endpoint_id")
        endpoint, secret = await endpoints.rotate_secret(
            input.endpoint_id, box=info.context.state.webhook_secrets, audit=audit_context(info)
        )
        return RotateWebhookSecretSuccess(endpoint=to_endpoint(endpoint), secret=secret)

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Disable a webhook endpoint. It receives no events that happen from now on; its pending deliveries "
        "wait until it is enabled.",
        errors=(WebhookEndpointNotFound, InvalidInput),
    )
    async def disable_webhook_endpoint(
        self, info: ResolverInfo, input: DisableWebhookEndpointInput
    ) -> DisableWebhookEndpointSuccess:
        check_input_ids(input, "endpoint_id")
        endpoint = await endpoints.disable_endpoint(input.endpoint_id, input.reason, audit=audit_context(info))
        return DisableWebhookEndpointSuccess(endpoint=to_endpoint(endpoint))

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Enable a webhook endpoint again. Its pending deliveries are sent first.",
        errors=(WebhookEndpointNotFound, InvalidInput),
    )
    async def enable_webhook_endpoint(
        self, info: ResolverInfo, input: EnableWebhookEndpointInput
    ) -> EnableWebhookEndpointSuccess:
        check_input_ids(input, "endpoint_id")
        endpoint = await endpoints.enable_endpoint(input.endpoint_id, audit=audit_context(info))
        return EnableWebhookEndpointSuccess(endpoint=to_endpoint(endpoint))

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Send a delivery again, also one that was delivered or given up.",
        errors=(InvalidInput,),
    )
    async def redeliver_webhook(self, info: ResolverInfo, input: RedeliverWebhookInput) -> RedeliverWebhookSuccess:
        delivery = await deliveries.redeliver(input.delivery_id, audit=audit_context(info))
        return RedeliverWebhookSuccess(delivery=to_delivery(delivery))


def to_endpoint(row: models.WebhookEndpoint) -> WebhookEndpoint:
    return build_from(WebhookEndpoint, row, id=strawberry.ID(row.id))


def to_delivery(row: models.WebhookDelivery) -> WebhookDelivery:
    is_pending = row.delivered_at is None and row.failed_at is None
    return build_from(
        WebhookDelivery, row, id=Long(row.id), next_attempt_at=row.next_attempt_at if is_pending else None
    )
