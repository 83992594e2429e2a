"""Serve applications ``gateway`` and ``streams``: shells around the ASGI apps. ``serve_config.yaml`` imports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from ray_app.clock import open_clock
from ray_app.collection.actors import EventBusClient
from ray_app.collection.cluster import refuse_shared_sqlite
from ray_app.collection.jobs import JobsClient
from ray_app.collection.supervisor import machines
from ray_app.errors import ScorerBusy
from ray_app.health.evidence import Probe
from ray_app.logs import configure
from ray_app.sentiment.analysis import Analysis, Busy
from ray_app.serving import api, deps
from ray_app.serving.analyst import RETRY_S, Bounded
from ray_app.serving.health_probes import redis_probe, streams_probe
from ray_app.serving.keys import KeyRing
from ray_app.serving.streams import StreamDeps, build_streams, status_document
from ray_app.serving.streams import Streams as StreamsApp
from ray_app.settings import load_settings
from ray_app.storage.engine import Database


class Deployed:
    """The application ``sentiment``, by its handle: one for all requests, for it counts those that wait."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle | None = None

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis:
        """What the deployment says. ScorerBusy where its queue is full, or it is not there."""
        try:
            self._handle = self._handle or serve.get_deployment_handle("Sentiment", app_name="sentiment")
        except (RayServeException, KeyError) as error:  # KeyError: there is no such application
            raise ScorerBusy("the application that scores texts does not run", RETRY_S) from error
        try:
            found: Analysis | Busy = await self._handle.analyze.remote(texts, domain)
        except BackPressureError as error:
            raise ScorerBusy("too many wait to have texts scored", RETRY_S) from error
        except (RayServeException, RayActorError) as error:
            raise ScorerBusy("the application that scores texts does not answer", RETRY_S) from error
        if isinstance(found, Busy):
            raise ScorerBusy("too many texts wait to be scored", found.retry_after_s)
        return found


class Gateway:
    """The REST API."""

    def __serve_build_asgi_app__(self) -> api.Gateway:
        settings = load_settings()
        configure(settings.log_level)
        refuse_shared_sqlite(settings.resolved_database_url, machines())
        bus = EventBusClient(settings.ray_namespace)

        async def ask_redis() -> Probe:
            return redis_probe((await bus.state())["redis"])

        return api.build_api(
            deps.open_gateway(
                settings,
                bus,
                jobs=JobsClient.from_settings(settings),
                analyst=Bounded(Deployed()),
                probes={"streams": self._ask_streams, "redis": ask_redis},
                echo_request_id=False,  # Serve adds X-Request-ID to answers itself
            )
        )

    @staticmethod
    async def _ask_streams() -> Probe:
        handle = serve.get_deployment_handle("Streams", app_name="streams")
        return streams_probe(await handle.status.remote())


class Streams:
    """The WebSocket streams."""

    _app: StreamsApp

    def __serve_build_asgi_app__(self) -> StreamsApp:
        settings = load_settings()
        configure(settings.log_level)
        refuse_shared_sqlite(settings.resolved_database_url, machines())
        db = Database(settings.resolved_database_url, pool_size=settings.db_pool_size)
        clock = open_clock(settings.epoch_file)
        registry = deps.StoredRegistry(db)
        self._app = build_streams(
            StreamDeps(
                db=db,
                hotline=EventBusClient(settings.ray_namespace),
                keyring=KeyRing(db, clock),
                registry=lambda: registry.current,
                settings=settings,
                clock=clock,
                refresh=(registry.refresh,),
            )
        )
        return self._app

    async def status(self) -> dict[str, Any]:
        """How the streams of this replica are doing; the gateway asks for /health."""
        return status_document(self._app.status())


gateway = serve.deployment(name="Gateway")(serve.ingress()(Gateway)).bind()
streams = serve.deployment(name="Streams")(serve.ingress()(Streams)).bind()
