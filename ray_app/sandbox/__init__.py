"""The simulated upstreams: the wire formats of CoinGecko and Coinbase over HTTP, as of any time.

Read :mod:`ray_app.sandbox.market` for what a market is, its siblings ``generated`` and ``replay`` for where prices
come from, ``coingecko`` and ``coinbase`` for how upstreams say it, ``faults`` and ``spoil`` for what goes wrong, and
``app`` for how it is served. docs/sandbox.md shows its use. Nothing here is used by a live node.
"""
