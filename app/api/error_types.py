"""The GraphQL types of expected errors, derived from the `BillingError` classes.

The leaf class `X` becomes the type `XError`. Its fields are those members of `X` that have a description (see
`app.errors.described`). A member `*_id` has the type `ID`. A member `*_credits` has the type `Credits`, and the field
is named without that suffix.

A resolver raises the `BillingError`, which is converted if the result union of the field contains its type. If not,
there is a bug, and the error is masked like any other fault.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final, get_type_hints

import strawberry
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

import app.topups.errors  # noqa: F401  defines errors
from app.api.accounts.balance import Balance, load_auto_top_up, to_balance
from app.api.context import Context, ResolverInfo
from app.api.objects import build_from
from app.api.scalars import Credits
from app.engine import declare
from app.engine.permissions import Permission
from app.errors import BillingError, InsufficientCredits
from app.ledger.rules.account_state import AccountBalance


@declare.interface(
    description="An expected error. Nothing was changed. `__typename` is a stable code for programs.",
    needs=Permission.INHERITED,
)
class UserError:
    message: str = declare.value(description="What is wrong and what to do about it, for people.")


@declare.type(description="One problem in an input.", needs=Permission.INHERITED)
class Problem:
    path: str = declare.value(description="The path of the value in the input, with dots: `budget`, `blocks.0.rules`.")
    message: str = declare.value(description="What is wrong with the value and what to do about it.")


@declare.type(
    description="The item failed because of an internal error. The other items were processed. The item may have been "
    "charged: send it again, because a block run is charged only once.",
    needs=Permission.INHERITED,
)
class InternalError(UserError):
    reference: str = declare.value(description="Quote this reference when you report the error.")


@declare.type(
    description="The item failed because the database could not be used, or because another transaction has locked the "
    "account. The other items were processed. The item may have been charged: send it again, because a block run is "
    "charged only once.",
    needs=Permission.INHERITED,
)
class UnavailableError(UserError):
    pass


def _error_classes(base: type[BillingError] = BillingError) -> Iterator[type[BillingError]]:
    """Yield all error classes, subclasses before their base: Strawberry uses the first that matches an error."""
    for cls in base.__subclasses__():
        yield from _error_classes(cls)
        yield cls


def _members(error: type[BillingError]) -> Iterator[tuple[str, Any, str]]:
    """Yield name, type and description of each field and property that has a description."""
    for field in fields(error):  # type: ignore[arg-type]  # every error is a dataclass
        if description := field.metadata.get("description"):
            yield field.name, field.type, description
    for name, member in vars(error).items():
        if isinstance(member, property) and member.fget and member.__doc__ and name != "message":
            yield name, get_type_hints(member.fget)["return"], member.__doc__


def _graphql_type(name: str, declared: Any) -> Any:
    if name.endswith("_id"):
        return strawberry.ID
    if name.endswith("_credits"):
        return Credits
    return {"problems": list[Problem], "balance": Balance}.get(name, declared)


@declare.field(
    description="Whether auto top-up is buying credits now, without the owner: the same request may succeed in a few "
    "seconds. `balance.autoTopUp` is its state."
)
async def auto_top_up_under_way(self: Any, info: ResolverInfo) -> bool:
    return (await load_auto_top_up(self.balance.account_number, info.context)).is_under_way


_RESOLVERS: Final[dict[type[BillingError], dict[str, Any]]] = {
    InsufficientCredits: {"auto_top_up_under_way": auto_top_up_under_way}
}
"""Fields that are read only if they are requested."""


class ErrorType:
    """A `BillingError` class and its GraphQL type; an exception handler of Strawberry."""

    def __init__(self, error: type[BillingError]) -> None:
        members = list(_members(error))
        self.exception_type = error
        self._attributes = {name.removesuffix("_credits"): name for name, _, _ in members}
        namespace: dict[str, Any] = {"__module__": __name__, "__annotations__": {}, **_RESOLVERS.get(error, {})}
        for name, declared, description in members:
            field_name = name.removesuffix("_credits")
            namespace["__annotations__"][field_name] = _graphql_type(name, declared)
            namespace[field_name] = declare.value(description=description)
        cls = type(f"{error.__name__}Error", (UserError,), namespace)
        declare_type = declare.type(description=error.__doc__ or "", needs=Permission.INHERITED)
        self.error_type: type[UserError] = declare_type(cls)

    def convert(self, error: BillingError, context: Context) -> UserError:
        values = {name: getattr(error, attribute) for name, attribute in self._attributes.items()}
        if "problems" in values:
            values["problems"] = [build_from(Problem, problem) for problem in values["problems"]]
        if "balance" in values:
            if not isinstance(values["balance"], AccountBalance):
                raise TypeError(f"{type(error).__name__} must carry the balance of the account")
            values["balance"] = to_balance(values["balance"], context)
        return self.error_type(message=error.message, **values)

    def handle(self, exception: BillingError, *, field: StrawberryField, info: Info[Any, Any]) -> UserError:
        """Strawberry calls this for an error that a resolver raises, if the field's union contains `error_type`."""
        return self.convert(exception, info.context)


ERROR_TYPES: Final = {error: ErrorType(error) for error in _error_classes()}


def to_user_error(error: BillingError, context: Context) -> UserError:
    """Convert the error of an item of a list. Raises: `error` itself, if it has no GraphQL type."""
    for cls in type(error).__mro__:
        if cls in ERROR_TYPES:
            return ERROR_TYPES[cls].convert(error, context)
    raise error
