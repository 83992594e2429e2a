"""Etherscan V2 (api.etherscan.io/v2/api): gas prices, supply and price of Ether.

Format: https://docs.etherscan.io. What trips people up:

* Every question is the same path: ``chainid``, ``module`` and ``action`` say which.
* Errors come as HTTP 200 with ``status`` "0", ``message`` "NOTOK" and the reason in ``result``; answers have
  ``message`` "OK", which other upstreams use for refusals.
* Values are strings; supplies are in wei; gas prices are in gwei, with decimals since V2.
* ``ethsupply`` leaves out staking rewards and burnt fees: the supply is EthSupply + Eth2Staking − BurntFees of
  ``ethsupply2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Final

from ray_app.errors import MalformedPayload
from ray_app.sources.base import Endpoint, Exchange, Parsed, Request
from ray_app.sources.onchain import METRICS, Statements
from ray_app.sources.reading import (
    Bounds,
    Findings,
    decode,
    epoch_time,
    expect_object,
    members,
    not_ahead,
    number,
    shown,
)
from ray_app.sources.refusals import Refusal, refusal_in, refuse, require_ok, words

COIN: Final = "ethereum"
_WEI: Final = Decimal(10) ** 18


class Action(Endpoint):
    """What every action of ``/api`` on Ethereum's main chain is."""

    account: ClassVar[str] = "etherscan"
    parser_version: ClassVar[int] = 2  # 2: a status that is a number is read
    paths: ClassVar[tuple[str, ...]] = ("/api",)
    query: ClassVar[frozenset[str]] = frozenset({"chainid", "module", "action"})

    def request(self) -> Request:
        """The state as it is now."""
        return Request(self.name, "/api", {"chainid": "1", **self.fixed})

    def result(self, exchange: Exchange) -> dict[str, Any]:
        """``result`` of a good answer; raises what an error inside HTTP 200 says."""
        if exchange.request.params.get("chainid", "1") != "1":
            raise MalformedPayload(self.name, "only chainid 1 is read: the answer does not say which chain it is of")
        require_ok(exchange)
        body = expect_object(self.name, decode(self.name, exchange.body), "status, message, result")
        if "status" not in body and refusal_in(body) is None:
            raise MalformedPayload(self.name, "not the action's answer: it has no status")
        if body.get("status") not in ("1", 1):
            refusal = refusal_in({k: v for k, v in body.items() if k not in {"status", "message"}})
            said = refusal.message if refusal is not None else words(body.get("result") or body.get("message"))
            refuse(exchange, refusal or Refusal(said))
        return expect_object(self.name, body.get("result"), "the action's result")


class GasOracle(Action):
    """``module=gastracker&action=gasoracle``: gas prices in gwei at the moment of the fetch."""

    name: ClassVar[str] = "etherscan.gas_oracle"
    fixed: ClassVar[Mapping[str, str]] = {"module": "gastracker", "action": "gasoracle"}
    members: ClassVar[Mapping[str, str]] = {
        "SafeGasPrice": "gas_price_safe_gwei",
        "ProposeGasPrice": "gas_price_propose_gwei",
        "FastGasPrice": "gas_price_fast_gwei",
        "suggestBaseFee": "base_fee_gwei",
        "LastBlock": "block_height",
    }

    def parse(self, exchange: Exchange) -> Parsed:
        """onchain_data rows of ethereum."""
        result = self.result(exchange)
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        for theirs, metric in self.members.items():
            rows.add(COIN, metric, exchange.fetched_at, result.get(theirs), None, field=theirs)
        if not rows.seen:
            raise MalformedPayload(self.name, f"no gas price among {members(result)}")
        return Parsed(rows.rows(), found.all())


class EthSupply(Action):
    """``module=stats&action=ethsupply2``: the parts of Ether's supply, wei."""

    name: ClassVar[str] = "etherscan.eth_supply"
    fixed: ClassVar[Mapping[str, str]] = {"module": "stats", "action": "ethsupply2"}

    def parse(self, exchange: Exchange) -> Parsed:
        """One row: ``circulating_supply`` = EthSupply + Eth2Staking − BurntFees, on the decimals as stated.

        No row where a part is not there or cannot be read.
        """
        result = self.result(exchange)
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        bounds = Bounds("an amount in wei", 0, METRICS["circulating_supply"].bounds.high * 1e18)
        parts = [
            number(found, COIN, name, result.get(name), bounds) for name in ("EthSupply", "Eth2Staking", "BurntFees")
        ]
        if not {"EthSupply", "Eth2Staking", "BurntFees"} & result.keys():
            raise MalformedPayload(self.name, f"no supply among {members(result)}")
        if None not in parts:
            minted, staked, burnt = (_exact(result[name]) for name in ("EthSupply", "Eth2Staking", "BurntFees"))
            supply = float((minted + staked - burnt) / _WEI)
            rows.add(COIN, "circulating_supply", exchange.fetched_at, supply, None, field="EthSupply")
        return Parsed(rows.rows(), found.all())


class EthPrice(Action):
    """``module=stats&action=ethprice``: the price of Ether, with its own time."""

    name: ClassVar[str] = "etherscan.eth_price"
    fixed: ClassVar[Mapping[str, str]] = {"module": "stats", "action": "ethprice"}

    def parse(self, exchange: Exchange) -> Parsed:
        """One row, ``price_usd``; none where its time cannot be read."""
        result = self.result(exchange)
        if "ethusd" not in result:
            raise MalformedPayload(self.name, f"no ethusd among {members(result)}")
        found = Findings()
        rows = Statements(self.name, exchange.fetched_at, found)
        said = result.get("ethusd_timestamp")
        at = epoch_time(found, COIN, "ethusd_timestamp", said, 1_000)
        at = not_ahead(found, COIN, "ethusd_timestamp", at, exchange.fetched_at)
        if at is not None:
            rows.add(COIN, "price_usd", min(at, exchange.fetched_at), result["ethusd"], None, field="ethusd")
        elif said is None:
            found.add("wrong_type", COIN, "ethusd_timestamp", f"a price without its time: {shown(result['ethusd'])}")
        return Parsed(rows.rows(), found.all())


def _exact(value: object) -> Decimal:
    """The decimal of a JSON number or text that ``reading.number`` has read."""
    return Decimal(value.strip() if isinstance(value, str) else repr(value))


ENDPOINTS: Final[tuple[Endpoint, ...]] = (GasOracle(), EthSupply(), EthPrice())
