"""Acting under a lease: acquired, renewed in the background, and released, whatever happens inside.

Leases are about processes being alive: everything here is wall time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ray_app.collection.lease import Lease
from ray_app.collection.runtime import Runtime
from ray_app.errors import LeaseLost, LeaseTaken, StorageError

log = logging.getLogger(__name__)

#: how long a lease lasts without renewal, and how often it is renewed
LEASE_TTL_S = 10.0
RENEW_S = LEASE_TTL_S / 4
#: a renewal that takes this many times as long as the lease lasts will never come: the database hangs. A slow one that
#: comes has lost nothing, if nobody took the lease meanwhile
HANGS_AFTER = 3
#: how long the answers in line may take to commit at the end; then they are left to the archive
DRAIN_S = 1.3


@asynccontextmanager
async def holding(runtime: Runtime, name: str, holder: str) -> AsyncIterator[Lease]:
    """Hold the lease ``name`` for the block; everything the runtime writes in it is fenced by the lease.

    LeaseTaken if another process holds it. If it is lost meanwhile (another holder, or a database away for longer than
    it lasts) the block is cancelled and LeaseLost comes out of it.
    """
    lease = await asyncio.to_thread(runtime.leases.acquire, name, holder, LEASE_TTL_S)
    if lease is None:
        raise LeaseTaken(f"{name}: another process holds the lease and acts")
    log.info("%s: acting as %s (token %d)", name, holder, lease.token)
    runtime.ingestor.lease = lease
    body = asyncio.current_task()
    lost: list[LeaseLost] = []

    async def renew() -> None:
        try:
            await _renewed(runtime, lease)
        except LeaseLost as error:
            lost.append(error)
            if body is not None:
                body.cancel()

    renewal = asyncio.create_task(renew(), name=f"lease {name}")
    try:
        yield lease
    except asyncio.CancelledError:
        if lost and body is not None and body.uncancel() == 0:
            raise lost[0] from None
        raise
    finally:
        renewal.cancel()
        await asyncio.wait({renewal})
        await _let_go(runtime, lease)


async def _renewed(runtime: Runtime, lease: Lease) -> None:
    """Renew until that fails for good: LeaseLost."""
    loop = asyncio.get_running_loop()
    good_until = loop.time() + LEASE_TTL_S
    while True:
        await asyncio.sleep(RENEW_S)
        asked_at = loop.time()
        try:
            async with asyncio.timeout(HANGS_AFTER * LEASE_TTL_S):
                lease = await asyncio.to_thread(runtime.leases.renew, lease)
        except (StorageError, TimeoutError) as error:
            if loop.time() > good_until:
                why = str(error) or "the database does not answer"
                raise LeaseLost(f"lease {lease.name}: not renewed for {LEASE_TTL_S:g} s ({why})") from error
            log.warning("lease %s not renewed: %s", lease.name, error)
        else:
            good_until = asked_at + LEASE_TTL_S


async def _let_go(runtime: Runtime, lease: Lease) -> None:
    """Commit what is in line if that is quick, then release."""
    ingestor = runtime.ingestor
    if ingestor.lease is not None and not await ingestor.drain(DRAIN_S):
        log.info("%s: %d answers stay in the archive and are ingested next time", lease.name, ingestor.state.waiting)
    ingestor.lease = None
    try:
        await asyncio.wait_for(asyncio.to_thread(runtime.leases.release, lease), DRAIN_S)
    except (StorageError, TimeoutError) as error:
        log.info("lease %s not released (%r); it ends by itself", lease.name, error)
