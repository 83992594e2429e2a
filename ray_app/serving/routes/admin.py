"""What only a master key may do: start work, look after keys, see the evidence behind the health score.

Work runs as jobs outside the gateway; an answer of 202 names the job to ask about.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ray_app.clock import from_ms, iso, to_ms
from ray_app.collection.jobs import JobError
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level, UnknownKey
from ray_app.serving.problems import Problem
from ray_app.serving.routes.answers import JSON, Gateway, dumps, requires
from ray_app.serving.routes.history import EARLIEST_MS, LATEST_MS
from ray_app.storage.api_keys import KeyRow

router = APIRouter(prefix="/api/v1/admin", tags=["admin"], dependencies=[Depends(requires(Level.master))])


class BackfillOrder(BaseModel):
    """What to fetch again from the upstreams. Without times: whatever the dataset owes."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"dataset": "candles-3600"}]})

    dataset: Literal["prices", "candles-300", "candles-3600", "candles-86400"]
    symbols: list[Annotated[str, Field(min_length=1, max_length=150)]] | None = Field(
        None, min_length=1, max_length=1_000, description="default: every asset"
    )
    start: datetime | None = Field(None, description="RFC 3339; default: the dataset's horizon")
    end: datetime | None = Field(None, description="RFC 3339; default: now")

    @field_validator("start", "end")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without an offset; write it as RFC 3339, e.g. 2026-11-24T08:00:00Z")
        if value is not None and not EARLIEST_MS <= to_ms(value) <= LATEST_MS:
            raise ValueError("outside of any time there can be data of")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> BackfillOrder:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("start is not before end")
        return self


class KeyOrder(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=120, description="whose it is", examples=["trading engine"])
    level: Literal["readonly", "trading", "master"] = "readonly"
    expires_at: datetime | None = Field(None, description="RFC 3339; default: never")

    @field_validator("expires_at")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without an offset; write it as RFC 3339, e.g. 2026-11-24T08:00:00Z")
        if value is not None and to_ms(value) > LATEST_MS:
            raise ValueError("too far away; leave it out for a key that does not expire")
        return value


def _answer(content: Any, status: int = 200, **headers: str) -> Response:
    fresh = {"cache-control": "no-store"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(dumps(content), status_code=status, media_type=JSON, headers=fresh)


# --- work ----------------------------------------------------------------------------------------------------


async def _start(deps: GatewayDeps, arguments: list[str], name: str) -> Response:
    """Submit a job named after what it does and the second it was asked for: asking twice at once starts it once."""
    now_ms = deps.clock.now_ms()
    submission_id = f"{name}-{from_ms(now_ms):%Y%m%dT%H%M%SZ}"
    try:
        job_id = await deps.jobs.submit(arguments, submission_id)
    except JobError as error:
        raise Problem("SERVICE_UNAVAILABLE", "the job server does not answer") from error
    where = f"/api/v1/admin/jobs/{job_id}"
    return _answer({"job_id": job_id, "status_url": where, "accepted_at": iso(now_ms)}, 202, location=where)


@router.post("/collect/{collector}", status_code=202, summary="Let a collector run now")
async def collect(
    collector: Annotated[str, Path(max_length=32, examples=["crypto-prices"])], deps: Gateway
) -> Response:
    """One pass of a collector, outside its schedule but within its budget and its lease."""
    if collector not in deps.collectors:
        raise Problem("NOT_FOUND", f"there is no such collector; there are {', '.join(deps.collectors)}")
    return await _start(deps, ["collect", collector, "--once"], f"collect-{collector}")


@router.post("/backfill", status_code=202, summary="Fetch what is owed")
async def backfill(order: BackfillOrder, deps: Gateway) -> Response:
    """Fill gaps of a dataset, newest first, within the upstream budget."""
    arguments = ["backfill", "--dataset", order.dataset]
    registry = deps.registry.current
    for typed in order.symbols or ():
        arguments += ["--symbol", registry.resolve(typed).asset.coin_id]
    for option, moment in (("--from", order.start), ("--to", order.end)):
        if moment is not None:
            arguments += [option, iso(to_ms(moment))]
    return await _start(deps, arguments, f"backfill-{order.dataset}")


@router.get("/jobs/{job_id}", summary="How a job fares")
async def job(job_id: Annotated[str, Path(max_length=200, pattern=r"^[A-Za-z0-9._-]+$")], deps: Gateway) -> Response:
    """State of a job started here or by the node's own schedule."""
    try:
        found = await deps.jobs.info(job_id)
    except JobError as error:
        raise Problem("SERVICE_UNAVAILABLE", "the job server does not answer") from error
    if found is None:
        raise Problem("NOT_FOUND", "there is no job of that id")
    return _answer(
        {
            "job_id": found.job_id,
            "status": found.status,
            "message": next(iter(found.message.splitlines()), ""),  # below it Ray quotes the job's log
            "started_at": iso(found.started_ms) if found.started_ms is not None else None,
            "ended_at": iso(found.ended_ms) if found.ended_ms is not None else None,
        }
    )


@router.get("/health", summary="Health with its evidence")
async def health(deps: Gateway) -> Response:
    """The score with everything that cost it points."""
    return _answer(await deps.health.details())


# --- keys ----------------------------------------------------------------------------------------------------


@router.get("/keys", summary="Every key, without its secret")
async def keys(deps: Gateway) -> Response:
    """Ids, names, levels and what has become of them, oldest first."""
    rows = await asyncio.to_thread(deps.keyring.rows)
    return _answer({"data": [_show(row) for row in rows], "count": len(rows)})


@router.post("/keys", status_code=201, summary="Make a key")
async def create_key(order: KeyOrder, deps: Gateway) -> Response:
    """The key is in this answer and nowhere else; it works in every replica within a few seconds."""
    expires_at = to_ms(order.expires_at) if order.expires_at is not None else None
    if expires_at is not None and expires_at <= deps.clock.now_ms():
        raise Problem("VALIDATION_ERROR", "expires_at: is in the past")
    made = await asyncio.to_thread(deps.keyring.create, order.name, Level[order.level], expires_at)
    content = {"key_id": made.key_id, "name": made.name, "level": made.level.name, "key": made.secret}
    return _answer({**content, "expires_at": iso(expires_at) if expires_at is not None else None}, 201)


@router.delete("/keys/{key_id}", summary="Revoke a key")
async def revoke_key(key_id: Annotated[str, Path(max_length=16)], deps: Gateway) -> Response:
    """It stops working in every replica within a few seconds. Revoking twice is fine."""
    try:
        await asyncio.to_thread(deps.keyring.revoke, key_id)
    except UnknownKey as error:
        raise Problem("NOT_FOUND", "there is no key of that id") from error
    return _answer({"key_id": key_id, "revoked": True})


def _show(row: KeyRow) -> dict[str, Any]:
    return {
        "key_id": row.key_id,
        "name": row.name,
        "level": row.level,
        "created_at": iso(row.created_at),
        "expires_at": iso(row.expires_at) if row.expires_at is not None else None,
        "revoked_at": iso(row.revoked_at) if row.revoked_at is not None else None,
    }
