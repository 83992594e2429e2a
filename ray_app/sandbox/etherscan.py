"""Etherscan V2, simulated: shared/upstreams.md §10. One path; errors come as HTTP 200."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, MINUTE_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.onchain_series import at, price, supply, text

_NO_CHAIN: Final = (
    "Missing or unsupported chainid parameter (required for v2 api), please see "
    "https://api.etherscan.io/v2/chainlist for the list of supported chainids"
)


def _refuse(result: str) -> Rejection:
    return Rejection(json_answer({"status": "0", "message": "NOTOK", "result": result}))


class Api(SimulatedEndpoint):
    """GET /api?chainid=1&module=&action=: gasoracle, ethsupply, ethsupply2, ethprice."""

    source: ClassVar[str] = "etherscan"
    name = "api"
    pattern = re.compile(r"/api")

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        if params.get("chainid") != "1":
            raise _refuse(_NO_CHAIN)
        if not params.get("apikey"):
            raise _refuse("Missing/Invalid API Key")
        module, action = params.get("module", ""), params.get("action", "")
        if module not in {"gastracker", "stats"}:
            raise _refuse("Error! Missing Or invalid Module name")
        now = question.now_ms // MINUTE_MS * MINUTE_MS
        answers = {
            ("gastracker", "gasoracle"): _gas,
            ("stats", "ethsupply"): lambda w, n: _supply(w, n)["EthSupply"],
            ("stats", "ethsupply2"): _supply,
            ("stats", "ethprice"): _price,
        }
        if (module, action) not in answers:
            raise _refuse("Error! Missing Or invalid Action name")
        return json_answer({"status": "1", "message": "OK", "result": answers[module, action](world, now)})


def _gas(world: World, now: int) -> dict[str, str]:
    base = at(world.seed, "ethereum gas", now, 0.8, swing=0.8, noise=0.4, growth=0.0)
    return {
        "LastBlock": str(_block(now)),
        "SafeGasPrice": text(base, 9),
        "ProposeGasPrice": text(base * 1.02, 9),
        "FastGasPrice": text(base * 1.15, 9),
        "suggestBaseFee": text(base * 0.99, 9),
        "gasUsedRatio": "0.5,0.49,0.51,0.48,0.52",
    }


def _supply(world: World, now: int) -> dict[str, str]:
    coins = supply(world, "ethereum", now) or 120_700_000.0
    burnt = 4_600_000 + (now // DAY_MS - 20_454) * 250
    staked = 3_900_000 + (now // DAY_MS - 20_454) * 2_700
    gwei = {"EthSupply": coins - staked + burnt, "Eth2Staking": staked, "BurntFees": burnt, "WithdrawnTotal": staked}
    return {name: f"{round(ether * 1e9)}000000000" for name, ether in gwei.items()}


def _price(world: World, now: int) -> dict[str, Any]:
    ether = price(world, "ethereum", now) or at(world.seed, "ethereum price", now, 2_500.0, swing=0.3)
    bitcoin = price(world, "bitcoin", now) or at(world.seed, "bitcoin price", now, 80_000.0, swing=0.3)
    stamp = str(now // 1_000)
    return {
        "ethbtc": text(ether / bitcoin, 6),
        "ethbtc_timestamp": stamp,
        "ethusd": text(ether, 8),
        "ethusd_timestamp": stamp,
    }


def _block(now: int) -> int:
    return now // 12_000 - 125_600_000


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Api(),)
