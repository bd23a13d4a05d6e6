"""The header of one user's page: its balance, followed while everything happens."""

from typing import Any

from examples.simulation.documents import BALANCE_FOLLOWED
from examples.simulation.subscriptions import Subscription


class BalanceHeader(Subscription):
    """Its versions must rise, whatever happens."""

    name = "header"
    field = "balance"
    document = BALANCE_FOLLOWED

    @property
    def version(self) -> int:
        """Of the last item; -1 before the first."""
        return int(self.items[-1]["version"]) if self.items else -1

    async def wait_for_version(self, version: int, *, within_seconds: float) -> bool:
        """Whether an item of this version or a later one arrives in time."""
        return await self.wait_until(lambda: self.version >= version, within_seconds=within_seconds)

    def _take(self, item: dict[str, Any]) -> None:
        if item["version"] <= self.version:
            self._problem(f"version {item['version']} came after {self.version}")
        super()._take(item)
