"""Ray job: one pass of a collector now, by its running actor: ``python jobs/collect.py crypto-prices``."""

from __future__ import annotations

import argparse
import json

import ray

from ray_app.collection.supervisor import find_collector
from ray_app.errors import CryptoDataError
from ray_app.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collector", help="its name: crypto-prices, unified-ohlc, macro-fred …")
    parser.add_argument("--once", action="store_true", help="accepted for symmetry with crypto-data collect")
    arguments = parser.parse_args()
    settings = load_settings()
    ray.init(address="auto", namespace=settings.ray_namespace, log_to_driver=False)
    try:
        actor = find_collector(arguments.collector, settings.ray_namespace)
        print(json.dumps(ray.get(actor.collect_now.remote(arguments.collector), timeout=120)))
    except (CryptoDataError, ray.exceptions.RayError) as error:
        raise SystemExit(f"{arguments.collector}: {error}") from error
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
