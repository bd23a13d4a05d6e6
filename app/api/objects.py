"""Building objects from others by field name, and loading them in batches."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Final, TypeVar, overload

from app.db.failures import PartialFailure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")
T = TypeVar("T")

_REQUIRED: Final = object()


def build_from(cls: type[T], source: object, **values: Any) -> T:
    """Build an object of the dataclass or GraphQL type `cls`.

    Fields named in `values` have these values. All others are copied from the attributes of `source` with the same
    name, so a value that is only passed on is declared in `cls` and in the type of `source`, and nowhere else.
    """
    names = _field_names(cls)  # type: ignore[arg-type]  # a class is hashable
    return cls(**{name: getattr(source, name) for name in names if name not in values}, **values)


@cache
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.init)


@overload
def batched(read: Callable[[list[K]], Awaitable[Mapping[K, V]]]) -> Callable[[list[K]], Awaitable[list[V]]]: ...
@overload
def batched(
    read: Callable[[list[K]], Awaitable[Mapping[K, V]]], default: D
) -> Callable[[list[K]], Awaitable[list[V | D]]]: ...
def batched(read: Callable[[list[K]], Awaitable[Mapping[K, V]]], default: Any = _REQUIRED) -> Any:
    """Make a batch function for `Context.data_loader` from `read`, which returns a mapping by key.

    A key that is not in the mapping gives `default`. Without a default, it is an error. If `read` raises
    PartialFailure, the keys of the accounts that failed give an exception, and the others are read again. A key is an
    account id or begins with one.
    """

    async def load(keys: list[K]) -> list[Any]:
        failed: Mapping[int, Exception] = {}
        try:
            found = await read(keys)
        except PartialFailure as failure:
            failed = failure.by_account
            found = await read([key for key in keys if _account_of(key) not in failed])
        return [
            failed.get(_account_of(key)) or (found[key] if default is _REQUIRED else found.get(key, default))
            for key in keys
        ]

    return load


def _account_of(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) else key
