"""Live upstreams or the sandbox: the decision, and what follows from it for the node's settings.

Live and sandbox data never mix: each origin has a directory, a database and an archive of its own, and a directory of
simulated data belongs to one simulated market for good.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from ray_app.clock import Epoch
from ray_app.errors import ConfigError, NodeError
from ray_app.settings import Origin, Settings

Upstream = Literal["auto", "live", "sandbox"]

#: the fastest node time the sandbox can speak; long before it a node falls behind its schedules (docs/sandbox.md)
FASTEST = 10_000

#: in a sandbox directory: which market it holds
MARKET_FILE = "market.json"
#: wall seconds the probe of the live upstreams may take, all in all
PROBE_S = 4.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Where data comes from and why. ``fallback``: nobody asked for the sandbox, live upstreams do not answer."""

    origin: Origin
    reason: str
    fallback: bool = False


def choose(
    upstream: Upstream, *, files: Mapping[str, Path | None], time_scale: float, probe: Callable[[], str | None]
) -> Choice:
    """The origin of a node's data. ``files``: what the sandbox shall play, by flag.

    ``probe`` says what is wrong with the live upstreams (None: they answer).

    NodeError where flags contradict each other.
    """
    needs_sandbox = [flag for flag, path in files.items() if path is not None]
    needs_sandbox += ["--time-scale"] if time_scale != 1 else []
    if upstream == "live" and needs_sandbox:
        raise NodeError(f"{', '.join(needs_sandbox)} works with the sandbox only: use --upstream sandbox")
    if not 0 < time_scale <= FASTEST:  # NaN is refused too
        raise NodeError(f"--time-scale {time_scale:g} is not above 0 and at most {FASTEST:,}")
    for flag, path in files.items():
        if path is not None and not path.exists():
            raise NodeError(f"{flag} {path}: there is no such file")
    if upstream == "live":
        return Choice("live", "asked for")
    if needs_sandbox:
        return Choice("sandbox", f"{', '.join(needs_sandbox)}")
    if upstream == "sandbox":
        return Choice("sandbox", "asked for")
    problem = probe()
    return Choice("live", "they answer") if problem is None else Choice("sandbox", problem, fallback=True)


def probe_live(settings: Settings) -> str | None:
    """One question to each live upstream; what is wrong with them, or None. Neither question costs a credit."""
    coingecko = settings.coingecko_base_url or "https://api.coingecko.com/api/v3"
    questions = {
        "CoinGecko": f"{coingecko.rstrip('/')}/ping",
        "Coinbase": f"{settings.coinbase_exchange_base_url.rstrip('/')}/time",
    }
    with httpx.Client(timeout=PROBE_S / len(questions), headers={"User-Agent": "crypto-data-collection"}) as http:
        for name, url in questions.items():
            try:
                answer = http.get(url)
            except httpx.HTTPError as error:
                return f"{name} does not answer ({type(error).__name__})"
            if answer.status_code != 200:
                return f"{name} answers {answer.status_code}"
    return None


#: keys that open a source; the simulated ones have to be opened too
KEYS = (
    *("FRED_API_KEY", "GUARDIAN_API_KEY", "CRYPTOPANIC_API_KEY", "ETHERSCAN_API_KEY", "BLOCKCHAIR_API_KEY"),
    *("REDDIT_CLIENT_ID", "REDDIT_CLIENT_SECRET", "TWITTER_BEARER_TOKEN"),
)


def sandbox_variables(port: int) -> dict[str, str]:
    """The environment that turns a node's collectors to the sandbox on ``port``, keyless."""
    base = f"http://127.0.0.1:{port}"
    return {
        "COINGECKO_BASE_URL": f"{base}/coingecko/api/v3",
        "COINBASE_EXCHANGE_BASE_URL": f"{base}/coinbase-exchange",
        "COINBASE_API_BASE_URL": f"{base}/coinbase-api/v2",
        "SANDBOX_URL": base,
        "UPSTREAM_URLS": "",
        "COINGECKO_API_KEY": "",  # a real key is nobody's business here
        **dict.fromkeys(KEYS, "sandbox"),  # simulated upstreams take any
    }


def begin_epoch(epoch_file: Path, wall_ms: int, time_scale: float) -> Epoch:
    """The epoch of a sandbox node that starts now: its time goes on from where it was, at the pace asked for."""
    epoch = Epoch.load(epoch_file)
    if epoch is None:
        epoch = Epoch.begin(wall_ms, time_scale)
    elif epoch.scale != time_scale:
        epoch = epoch.rescaled(wall_ms, time_scale)
    else:
        return epoch
    epoch.save(epoch_file)
    return epoch


def check_market(state_dir: Path, replay: Path | None) -> None:
    """NodeError if a sandbox directory holds another simulated market than this one."""
    path = state_dir / MARKET_FILE
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read ({error}); use another --data-dir") from error
    if known != _market(replay):
        held = f"the replay of {known.get('file')}" if known.get("market") == "replay" else "a generated market"
        raise NodeError(f"{state_dir} holds {held}; for another simulated market use another --data-dir")


def claim_market(state_dir: Path, replay: Path | None) -> None:
    """Remember which simulated market a sandbox directory holds, for good; NodeError if it holds another already."""
    check_market(state_dir, replay)
    path = state_dir / MARKET_FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(_market(replay)) + "\n")
    partial.replace(path)


def _market(replay: Path | None) -> dict[str, str]:
    if replay is None:
        return {"market": "generated"}
    return {"market": "replay", "file": replay.name, "sha256": _digest(replay)}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
