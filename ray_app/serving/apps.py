"""Serve applications ``gateway`` and ``streams``: shells around the ASGI apps. ``serve_config.yaml`` imports them."""

from __future__ import annotations

from ray import serve

from ray_app.clock import open_clock
from ray_app.collection.actors import EventBusClient
from ray_app.collection.jobs import JobsClient
from ray_app.logs import configure
from ray_app.serving import api, deps
from ray_app.serving.keys import KeyRing
from ray_app.serving.streams import StreamDeps, build_streams
from ray_app.serving.streams import Streams as StreamsApp
from ray_app.settings import load_settings
from ray_app.storage.engine import Database


class Gateway:
    """The REST API."""

    def __serve_build_asgi_app__(self) -> api.Gateway:
        settings = load_settings()
        configure(settings.log_level)
        return api.build_api(
            deps.open_gateway(
                settings,
                EventBusClient(settings.ray_namespace),
                jobs=JobsClient.from_settings(settings),
                echo_request_id=False,  # Serve adds X-Request-ID to answers itself
            )
        )


class Streams:
    """The WebSocket streams."""

    def __serve_build_asgi_app__(self) -> StreamsApp:
        settings = load_settings()
        configure(settings.log_level)
        db = Database(settings.resolved_database_url, pool_size=settings.db_pool_size)
        clock = open_clock(settings.epoch_file)
        registry = deps.StoredRegistry(db)
        registry.refresh()
        return build_streams(
            StreamDeps(
                db=db,
                hotline=EventBusClient(settings.ray_namespace),
                keyring=KeyRing(db, clock),
                registry=lambda: registry.current,
                settings=settings,
                clock=clock,
            )
        )


gateway = serve.deployment(name="Gateway")(serve.ingress()(Gateway)).bind()
streams = serve.deployment(name="Streams")(serve.ingress()(Streams)).bind()
