from __future__ import annotations

import pickle

import pytest

from ray_app import errors

EXAMPLES = [
    errors.ConfigError("DATA_DIR is a file"),
    errors.RateLimited("coingecko.markets", "slow down", 7.0),
    errors.MalformedPayload("coingecko.markets", "HTML"),
    errors.ClientRefused("reddit.listing", "no token: HTTP 401", 19),
    errors.CircuitOpen("coinbase.candles", 17),
    errors.BudgetExhausted("coingecko.markets", "the month is spent", 18),
    errors.UnknownSymbol("BTX", ("BTC", "BTG")),
    errors.LeaseLost("somebody else has it"),
    errors.ModelIncomplete("finbert", "model.safetensors is cut off"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_cross_process_boundaries_whole(error: errors.CryptoDataError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
