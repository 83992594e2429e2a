"""A data-collection node for crypto and financial markets, on Ray.

The data flows through the packages in this order, and never back:

``sources`` (what to ask, how to read the answer) → ``collection`` (when to ask, the raw archive, the polling
actors) → ``storage`` (tables and guarded writes) → ``serving`` (REST and streams), with ``health`` judging all of
it. ``sandbox`` stands in for the upstreams, ``node`` starts and stops a local node, ``cli`` is `crypto-data`.

Read next: docs/architecture.md, then the docstring of the package you are curious about.
"""

__version__ = "0.1.0"
