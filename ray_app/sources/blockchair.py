"""Blockchair: statistics of a chain's last 24 hours.

Format: https://blockchair.com/api/docs. What trips people up:

* Errors are in ``context.code``, under whatever HTTP status: 402, 429, 435, 436, 437 are limits; 430, 434 and 503 say
  that the address is blocked, where only waiting helps.
* ``hashrate_24h`` is a string, amounts are in the chain's smallest unit, Ethereum's in wei and "approximate".
* 0 stands for what it does not know: price, market value, nodes, holders.
* Answers are cached for minutes: ``context.cache.since`` (UTC, without a zone) is when they were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar, Final
from urllib.parse import quote

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamUnavailable
from ray_app.sources.addressing import path_values
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.onchain import Statements
from ray_app.sources.reading import (
    EARLIEST_MS,
    Findings,
    as_number,
    decode,
    expect_object,
    members,
    not_ahead,
    shown,
)
from ray_app.sources.refusals import Refusal, read_answer, refuse, retry_after_s, words

#: chain → (CoinGecko's id, its smallest units in one coin)
CHAINS: Final[Mapping[str, tuple[str, float]]] = {
    "bitcoin": ("bitcoin", 1e8),
    "ethereum": ("ethereum", 1e18),
    "litecoin": ("litecoin", 1e8),
    "dogecoin": ("dogecoin", 1e8),
    "bitcoin-cash": ("bitcoin-cash", 1e8),
    "dash": ("dash", 1e8),
    "zcash": ("zcash", 1e8),
}
_LIMITS: Final = frozenset({402, 429, 435, 436, 437})
_BLOCKED: Final = frozenset({430, 434, 503})
#: member → our metric, of every chain
_OF_ALL: Final[Mapping[str, str]] = {
    "best_block_height": "block_height",
    "blocks_24h": "blocks_24h",
    "transactions_24h": "transaction_count",
    "mempool_transactions": "mempool_transactions",
    "average_transaction_fee_usd_24h": "average_transaction_fee_usd",
    "median_transaction_fee_usd_24h": "median_transaction_fee_usd",
    "market_price_usd": "price_usd",
    "market_cap_usd": "market_cap_usd",
}
#: of those that are mined
_OF_MINED: Final[Mapping[str, str]] = {
    "difficulty": "difficulty",
    "hashrate_24h": "hash_rate",
    "mempool_size": "mempool_bytes",
    "nodes": "nodes",
    "hodling_addresses": "holding_addresses",
}
#: how it writes "not known"
_ZERO_IS_UNKNOWN: Final = frozenset({"market_price_usd", "market_cap_usd", "nodes", "hodling_addresses"})


class Stats(Endpoint):
    """``/{chain}/stats``."""

    name: ClassVar[str] = "blockchair.stats"
    account: ClassVar[str] = "blockchair"
    paths: ClassVar[tuple[str, ...]] = ("/{chain}/stats",)

    def request(self, chain: str) -> Request:
        """The statistics of ``chain`` (CHAINS) as they are now."""
        if chain not in CHAINS:
            raise ValueError(f"{self.name}: {chain} is none of {', '.join(CHAINS)}")
        return Request(self.name, f"/{quote(chain, safe='')}/stats")

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of the chain's coin, as of ``context.cache.since``; known from the fetch."""
        chain = path_values(self, exchange.request.path)["chain"]
        if chain not in CHAINS:
            raise MalformedPayload(self.name, f"{shown(chain)} is no chain this node reads")
        self._refused(exchange)
        body = expect_object(self.name, read_answer(exchange), "data, context")
        data = expect_object(self.name, body.get("data"), "the statistics")
        coin_id, smallest = CHAINS[chain]
        found = Findings()
        at = self._made_at(found, chain, body.get("context"), exchange.fetched_at)
        rows = Statements(self.name, exchange.fetched_at, found)
        mined = chain != "ethereum"
        for theirs, metric in {**_OF_ALL, **(_OF_MINED if mined else {})}.items():
            value = data.get(theirs)
            if theirs in _ZERO_IS_UNKNOWN and as_number(value) == 0:
                continue
            rows.add(coin_id, metric, at, value, None, field=theirs)
        supply = "circulation" if mined else "circulation_approximate"
        rows.add(coin_id, "circulating_supply", at, data.get(supply), None, field=supply, scale=1 / smallest)
        if not rows.seen:
            raise MalformedPayload(self.name, f"no statistic among {members(data)}")
        return Parsed(rows.rows(), found.all())

    def _refused(self, exchange: Exchange) -> None:
        """Raise what ``context.code`` says; nothing where it says 200 or there is none."""
        try:
            body = decode(self.name, exchange.body)
        except MalformedPayload:
            return  # read_answer says what it is
        context = body.get("context") if isinstance(body, dict) else None
        code = as_number(context.get("code")) if isinstance(context, dict) else None
        if code is None or code == 200 or not isinstance(context, dict):
            return
        said = f"the upstream refused: {words(context.get('error'))} (code {code:.0f})"
        if code in _LIMITS:
            raise RateLimited(self.name, said, retry_after_s(exchange))
        if code in _BLOCKED:
            raise UpstreamUnavailable(self.name, f"{said}; this address is blocked for a while")
        if exchange.status == 200:
            refuse(exchange, Refusal(words(context.get("error")), int(code) if abs(code) < 1e6 else None))

    def _made_at(self, found: Findings, chain: str, context: object, fetched_at: int) -> int:
        """When the answer was made; the fetch where it does not say so readably."""
        cache = context.get("cache") if isinstance(context, dict) else None
        said = cache.get("since") if isinstance(cache, dict) else None
        if said is None:
            return fetched_at
        try:
            moment = datetime.strptime(said, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        except (ValueError, TypeError):
            found.add("wrong_type", chain, "cache.since", f"expected a time in UTC, got {shown(said)!r}")
            return fetched_at
        if to_ms(moment) < EARLIEST_MS:
            found.add("out_of_range", chain, "cache.since", f"{shown(said)} is before the first block")
            return fetched_at
        made = not_ahead(found, chain, "cache.since", to_ms(moment), fetched_at)
        return fetched_at if made is None else min(made, fetched_at)


ENDPOINTS: Final[tuple[Endpoint, ...]] = (Stats(),)
