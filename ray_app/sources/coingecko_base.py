"""What the endpoints of CoinGecko have in common."""

from __future__ import annotations

from typing import ClassVar, Final

from ray_app.errors import MalformedPayload
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange
from ray_app.sources.reading import requested, shown

ACCOUNT: Final = "coingecko"
#: ids one call takes
MAX_IDS: Final = 250


class CoinGeckoEndpoint(Endpoint):
    """What the endpoints of this upstream have in common."""

    account: ClassVar[str] = ACCOUNT

    def in_usd(self, exchange: Exchange, parameter: str = "vs_currency") -> None:
        """MalformedPayload if the request asked in another currency than USD: the body does not say its own."""
        asked = requested(exchange.request.params.get(parameter, "usd").lower())
        if "usd" not in asked:
            raise MalformedPayload(
                self.name, f"asked in {shown(', '.join(asked))}; this table is in USD: ask {parameter}=usd"
            )

    def coin_id(self, exchange: Exchange) -> str:
        """The coin the request's path is about."""
        return path_values(self, exchange.request.path)["id"]
