from __future__ import annotations

import re

import pytest

from ray_app.errors import ConfigError, MalformedPayload
from ray_app.sources import ENDPOINTS, endpoint, endpoint_for_url
from ray_app.sources.addressing import path_values, request_of_params, request_of_url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.coingecko.com/api/v3/coins/markets?vs_currency=usd", "coingecko.markets"),
        ("https://pro-api.coingecko.com/api/v3/coins/bitcoin/ohlc?days=1", "coingecko.ohlc"),
        ("https://pro-api.coingecko.com/api/v3/coins/bitcoin/ohlc/range", "coingecko.ohlc"),
        ("https://api.coingecko.com/api/v3/coins/bitcoin/market_chart", "coingecko.market_chart"),
        ("https://api.coingecko.com/api/v3/coins/bitcoin/market_chart/range?from=1&to=2", "coingecko.market_chart"),
        ("https://api.coingecko.com/api/v3/global/", "coingecko.global"),
        ("https://api.exchange.coinbase.com/products", "coinbase.products"),
        ("https://api.pro.coinbase.com/products/BTC-USD/candles?granularity=60", "coinbase.candles"),
        ("https://api.coinbase.com/v2/exchange-rates?currency=BTC", "coinbase.exchange_rates"),
        ("http://127.0.0.1:9000/coingecko/api/v3/simple/price", "coingecko.simple_price"),
        ("http://127.0.0.1:9000/coinbase-exchange/products/BTC-USD/candles", "coinbase.candles"),
        ("http://127.0.0.1:9000/coinbase-api/v2/exchange-rates", "coinbase.exchange_rates"),
        ("https://api.coingecko.com/api/v3/coins/bitcoin", None),
        ("https://api.coingecko.com/api/v3/coins/a/b/ohlc", None),
        ("https://api.pro.coinbase.com/products/BTC-USD/trades", None),
        ("https://api.binance.com/api/v3/global", None),
        ("https://evil.example/api.coingecko.com/api/v3/global", None),
        ("not a url", None),
        ("https://api.etherscan.io/api?module=stats&action=ethprice&apikey=K", "etherscan.eth_price"),
        ("https://api.etherscan.io/v2/api?chainid=1&module=stats&action=ethprice", "etherscan.eth_price"),
        ("https://blockchain.info/charts/hash-rate?format=json", "blockchain_com.chart"),
        ("https://api.blockchain.info/stats", "blockchain_com.stats"),
        ("https://okx.com/api/v5/public/mark-price?instType=SWAP", "okx.mark_price"),
        ("https://www.okex.com/api/v5/public/funding-rate?instId=BTC-USDT-SWAP", "okx.funding_rate"),
        ("https://deribit.com/api/v2/public/get_volatility_index_data?currency=BTC", "deribit.volatility_index"),
        ("https://api.bytick.com/v5/market/tickers?category=linear", "bybit.tickers"),
        ("https://www.reddit.com/r/Bitcoin/new.json?limit=25", "reddit.listing"),
        ("https://www.reddit.com/r/Bitcoin/new/.json", "reddit.listing"),
        ("https://www.reddit.com/by_id/t3_1abcde.json", "reddit.by_id"),
        ("https://www.coindesk.com/arc/outboundfeeds/rss/?outputType=xml", "rss.feed"),
        ("https://example.com/rss-of-nobody?outputType=xml", None),
        ("https://api.llama.fi/chains", "defillama.chains"),
        ("https://api.llama.fi/charts/Ethereum", "defillama.chain_tvl"),
        ("https://api.llama.fi/charts", "defillama.total_tvl"),
        ("https://mempool.space/api/v1/mining/hashrate", "mempool.hashrate"),
        ("https://okx.com.evil.example/api/v5/public/mark-price", None),
    ],
)
def test_url_leads_to_the_endpoint_that_reads_it(url, name):
    found = endpoint_for_url(url)
    assert (found.name if found is not None else None) == name


def test_recorded_url_gives_the_request_without_what_is_not_documented():
    url = "https://api.coingecko.com/api/v3/coins/a%2Fb/ohlc?vs_currency=usd&days=7&x_cg_demo_api_key=CG-secret"
    request = request_of_url(ENDPOINTS["coingecko.ohlc"], url)
    assert request.params == {"vs_currency": "usd", "days": "7"}
    assert path_values(ENDPOINTS["coingecko.ohlc"], request.path) == {"id": "a/b"}
    with pytest.raises(ValueError, match=r"coingecko\.markets"):
        request_of_url(ENDPOINTS["coingecko.markets"], url)


def test_parameters_by_the_upstreams_names_make_the_request():
    request = request_of_params(ENDPOINTS["coingecko.ohlc"], {"id": "bitcoin", "days": "7"})
    assert (request.path, request.params) == ("/coins/bitcoin/ohlc", {"days": "7"})
    request = request_of_params(ENDPOINTS["coingecko.market_chart"], {"id": "bitcoin", "from": "1", "to": "2"})
    assert request.path == "/coins/bitcoin/market_chart/range"
    for name in ("id", "product_id"):
        request = request_of_params(
            ENDPOINTS["coinbase.candles"], {name: "BTC-USD", "granularity": "60"}, {"slot": "1"}
        )
        assert request.path == "/products/BTC-USD/candles"
        assert request.context == {"slot": "1"}
    assert request_of_params(ENDPOINTS["coingecko.global"], {}).path == "/global"


def test_unknown_and_missing_parameters_are_named():
    with pytest.raises(ConfigError, match=r"no parameter 'vs_curency'; it knows vs_currency"):
        request_of_params(ENDPOINTS["coingecko.markets"], {"vs_curency": "usd"})
    with pytest.raises(ConfigError, match="it has none"):
        request_of_params(ENDPOINTS["coingecko.global"], {"x": "y"})
    with pytest.raises(ConfigError, match="--param id="):
        request_of_params(ENDPOINTS["coingecko.ohlc"], {"days": "1"})


def test_unknown_source_has_near_matches():
    with pytest.raises(ConfigError, match=r"did you mean coinbase\.candles"):
        endpoint("coinbase.candle")
    with pytest.raises(ConfigError, match=r"coinbase\.products"):
        endpoint("coinbase")
    with pytest.raises(ConfigError, match="crypto-data sources"):
        endpoint("zzz")


def test_path_of_another_form_is_refused():
    with pytest.raises(MalformedPayload, match="not of the form"):
        path_values(ENDPOINTS["coingecko.ohlc"], "/coins/ohlc")


def test_what_the_upstream_lets_out_need_not_be_given():
    assert request_of_params(ENDPOINTS["mempool.hashrate"], {}).path == "/v1/mining/hashrate"
    assert request_of_params(ENDPOINTS["mempool.hashrate"], {"span": "1m"}).path == "/v1/mining/hashrate/1m"
    request = request_of_url(ENDPOINTS["reddit.listing"], "https://www.reddit.com/r/Bitcoin/new.json?limit=25")
    assert (request.path, request.params) == ("/r/Bitcoin/new", {"limit": "25"})


@pytest.mark.parametrize(
    ("name", "params", "path"),
    [
        ("guardian.search", "order-date show-elements show-references show-rights show-blocks ids star-rating", ""),
        ("guardian.search", "show-refinements production-office reference format", ""),
        ("guardian.item", "id show-related show-story-package show-references", "/1"),
        ("cryptopanic.posts", "following metadata approved panic_score search size with_content last_pull", ""),
        ("cryptopanic.posts", "panic_sort panic_period", ""),
        ("coingecko.derivatives", "include_tickers", ""),
        ("mempool.hashrate", "timePeriod", "/v1/mining/hashrate/1"),
        ("mempool.hashrate", "interval", "/v1/mining/hashrate/1"),
        ("blockchain_com.chart", "chartName", "/charts/1"),
        ("reddit.by_id", "id sr_name", "/api/info"),
        ("yahoo.chart", "symbol crumb", "/v8/finance/chart/1"),
    ],
)
def test_documented_parameters_are_known(name, params, path):
    request = request_of_params(ENDPOINTS[name], dict.fromkeys(params.split(), "1"))
    assert not path or request.path == path


def test_keys_are_dropped_whatever_the_upstream_calls_them():
    keys = "api_key apikey api-key auth_token api_code key x_cg_pro_api_key x_cg_demo_api_key token access_token"
    for one in ENDPOINTS.values():
        given = {place: "1" for template in one.paths[:1] for place in re.findall(r"\{(\w+)\}", template)}
        request = request_of_params(one, given | dict.fromkeys(keys.split(), "SECRET"))
        assert "SECRET" not in str(request)
