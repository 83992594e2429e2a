"""What upstreams are asked and how their answers are read. Pure: no I/O, no clock, no Ray.

One module per upstream, all of the shape in ``base.py``; ``docs/sources.md`` shows how to write one.
"""

from __future__ import annotations

import difflib
from typing import Final

from ray_app.errors import ConfigError
from ray_app.sources import (
    alternative_me,
    binance,
    blockchain_com,
    blockchair,
    bybit,
    coinbase,
    coinbase_ws,
    coingecko,
    coingecko_derivatives,
    coinmetrics,
    cryptopanic,
    defillama,
    deribit,
    etherscan,
    fred,
    guardian,
    mempool,
    okx,
    reddit,
    rss,
    x,
    yahoo,
)
from ray_app.sources.addressing import is_url_of
from ray_app.sources.base import Endpoint, Exchange, Issue, Parsed, Request, Row

#: one module per upstream, in the order of ``crypto-data sources``
MODULES: Final = (
    *(coingecko, coingecko_derivatives, coinbase, coinbase_ws, fred, yahoo),
    *(rss, guardian, cryptopanic, reddit, x),
    *(coinmetrics, blockchain_com, mempool, etherscan, blockchair, defillama, alternative_me),
    *(binance, bybit, okx, deribit),
)

#: Every endpoint by name.
ENDPOINTS: Final[dict[str, Endpoint]] = {endpoint.name: endpoint for module in MODULES for endpoint in module.ENDPOINTS}


def endpoint(name: str) -> Endpoint:
    """The endpoint called ``name``; ConfigError with near matches if there is none."""
    found = ENDPOINTS.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, ENDPOINTS, 3, 0.5) or [n for n in ENDPOINTS if n.split(".")[0] == name]
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ConfigError(f"no source is called {name!r}; {hint}(all of them: crypto-data sources)")


def endpoint_for_url(url: str) -> Endpoint | None:
    """The endpoint a URL asks (of two that read one URL, the first: coinbase.candles), or None: not one of ours."""
    return next((one for one in ENDPOINTS.values() if is_url_of(one, url)), None)


__all__ = ["ENDPOINTS", "Endpoint", "Exchange", "Issue", "Parsed", "Request", "Row", "endpoint", "endpoint_for_url"]
