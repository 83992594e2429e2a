"""Between URLs, parameters and requests: which endpoint a URL belongs to, and what a request's path says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ray_app.errors import ConfigError, MalformedPayload
from ray_app.sources.base import Endpoint, Request

_PLACE = re.compile(r"\{(\w+)\}")

#: What stands before an endpoint's path in a URL of each account: the upstream's hosts, and the sandbox's base paths.
_BASES: Final[Mapping[str, re.Pattern[str]]] = {
    "coingecko": re.compile(r"(?:api|pro-api)\.coingecko\.com/api/v3|[^/]+/coingecko/api/v3"),
    "coinbase": re.compile(r"api\.(?:exchange|pro|gdax|prime)\.coinbase\.com|[^/]+/coinbase-exchange"),
    "coinbase-v2": re.compile(r"api\.coinbase\.com/v2|[^/]+/coinbase-api/v2"),
    "coinbase-ws": re.compile(r"ws-feed\.exchange\.coinbase\.com|[^/]+/coinbase-ws"),
    "fred": re.compile(r"api\.stlouisfed\.org/fred|[^/]+/fred"),
    "yahoo": re.compile(r"query[12]\.finance\.yahoo\.com|[^/]+/yahoo"),
    "rss": re.compile(r"[^/]+/rss"),
    "guardian": re.compile(r"content\.guardianapis\.com|[^/]+/guardian"),
    "cryptopanic": re.compile(r"cryptopanic\.com/api|[^/]+/cryptopanic"),
    "reddit": re.compile(r"(?:oauth|www)\.reddit\.com|[^/]+/reddit"),
    "x": re.compile(r"api\.(?:x|twitter)\.com/2|[^/]+/x"),
    "coinmetrics": re.compile(r"(?:community-)?api\.coinmetrics\.io/v4|[^/]+/coinmetrics"),
    "blockchain_com": re.compile(r"(?:api\.)?blockchain\.info|[^/]+/blockchain_com"),
    "mempool": re.compile(r"mempool\.space/api|[^/]+/mempool"),
    "etherscan": re.compile(r"api\.etherscan\.io(?:/v2)?|[^/]+/etherscan"),
    "blockchair": re.compile(r"api\.blockchair\.com|[^/]+/blockchair"),
    "defillama": re.compile(r"api\.llama\.fi|[^/]+/defillama"),
    "stablecoins": re.compile(r"stablecoins\.llama\.fi|[^/]+/stablecoins"),
    "alternative_me": re.compile(r"api\.alternative\.me|[^/]+/alternative_me"),
    "binance": re.compile(r"fapi\.binance\.com|[^/]+/binance"),
    "bybit": re.compile(r"api\.(?:bybit|bytick)\.com|[^/]+/bybit"),
    "okx": re.compile(r"(?:www\.)?oke?x\.com|[^/]+/okx"),
    "deribit": re.compile(r"(?:www\.)?deribit\.com/api/v2|[^/]+/deribit"),
}

#: what upstreams call the key or token of a call: no part of a request, whoever states it
_SECRETS: Final = frozenset(
    {"api_key", "apikey", "api-key", "auth_token", "api_code", "key", "x_cg_pro_api_key", "x_cg_demo_api_key"}
    | {"token", "access_token"}
)


@lru_cache(maxsize=64)
def _pattern(template: str) -> re.Pattern[str]:
    """``/coins/{id}/ohlc`` as a pattern with a named group per placeholder (which never spans a slash)."""
    parts = _PLACE.split(template)
    return re.compile("".join(f"(?P<{p}>[^/]+)" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


def path_values(endpoint: Endpoint, path: str) -> dict[str, str]:
    """What a request's path says (``{"id": "bitcoin"}``); MalformedPayload if it is none of the endpoint's paths."""
    for template in endpoint.paths:
        match = _pattern(template).fullmatch(path)
        if match is not None:
            return {name: unquote(value) for name, value in match.groupdict().items()}
    raise MalformedPayload(endpoint.name, f"{path!r} is not of the form {' or '.join(endpoint.paths)}")


def is_url_of(endpoint: Endpoint, url: str) -> bool:
    """Whether ``url`` asks this endpoint, at the upstream itself or at a sandbox."""
    return _path_below_base(endpoint, url) is not None


def request_of_url(endpoint: Endpoint, url: str) -> Request:
    """The request a recorded URL made; parameters that are no documented ones of the endpoint (keys!) are dropped."""
    path = _path_below_base(endpoint, url)
    if path is None:
        raise ValueError(f"not a URL of {endpoint.name}")
    params = {name: value for name, value in parse_qsl(urlsplit(url).query) if name in endpoint.query}
    return Request(endpoint.name, path, params)


def _path_below_base(endpoint: Endpoint, url: str) -> str | None:
    own = endpoint.path_of(url)
    if own is not None:
        return own or None
    split = urlsplit(url)
    whole = f"{split.hostname or ''}{split.path.rstrip('/')}"
    base = _BASES[endpoint.account].match(whole)
    if base is None:
        return None
    path = whole[base.end() :]
    if endpoint.account == "reddit":
        path = path.removesuffix(".json").rstrip("/")  # how www.reddit.com is asked for the same listings
    if endpoint.fixed and not endpoint.fixed.items() <= dict(parse_qsl(split.query)).items():
        return None
    return path if any(_pattern(template).fullmatch(path) for template in endpoint.paths) else None


def request_of_params(
    endpoint: Endpoint, params: Mapping[str, str], context: Mapping[str, str] | None = None
) -> Request:
    """The request that parameters by the upstream's own names describe; placeholders of the path come first.

    ConfigError names an unknown parameter (with near matches) or the one the path cannot do without. Keys are dropped,
    as they are from a URL.
    """
    params = {endpoint.aliases.get(name, name): value for name, value in params.items()}
    places = {name for template in endpoint.paths for name in _PLACE.findall(template)}
    known = endpoint.query | places
    params = {name: value for name, value in params.items() if name in known or name.lower() not in _SECRETS}
    for name in params:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 3) or sorted(known)
            listed = f"; it knows {', '.join(near)}" if near else "; it has none"
            raise ConfigError(f"{endpoint.name} has no parameter {name!r}{listed}")
    filled = [t for t in endpoint.paths if all(params.get(place) for place in _PLACE.findall(t))]
    if not filled:
        missing = sorted(place for place in _PLACE.findall(endpoint.paths[0]) if not params.get(place))
        raise ConfigError(f"{endpoint.name} needs --param {missing[0]}=…: the body does not say what it is about")
    most = max(len(_PLACE.findall(t)) for t in filled)
    filled = [t for t in filled if len(_PLACE.findall(t)) == most]
    ranged = "from" in params
    template = next((t for t in filled if t.endswith("/range") == ranged), filled[-1])
    path = _PLACE.sub(lambda match: quote(params[match.group(1)], safe=""), template)
    query = {**endpoint.fixed, **{name: value for name, value in params.items() if name not in places}}
    return Request(endpoint.name, path, query, dict(context or {}))
