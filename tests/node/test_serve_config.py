"""serve_config.yaml as Ray Serve will read it. Serve drops keys it does not know without a word; here they are errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from ray_app.node.origin import Choice
from ray_app.node.plan import SERVE_CONFIG, Options, Plan
from ray_app.settings import Settings

CONFIG: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text())
APPLICATIONS = {application["name"]: application for application in CONFIG["applications"]}


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models that a field of this annotation may hold, itself or in a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, UnionType, list, dict}:
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []


def unknown_keys(value: object, models: list[type[BaseModel]], where: str = "") -> Iterator[str]:
    """Every key below ``value`` that none of ``models`` (the alternatives at this place) has a field for."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown_keys(item, models, f"{where}[{number}]")
    elif isinstance(value, dict) and models:
        for key, below in value.items():
            fields = [model.model_fields[key] for model in models if key in model.model_fields]
            if not fields:
                yield f"{where}.{key}"
            yield from unknown_keys(
                below, [model for field in fields for model in models_in(field.annotation)], f"{where}.{key}"
            )


def test_every_key_is_one_that_ray_serve_reads():
    assert list(unknown_keys(CONFIG, [ServeDeploySchema])) == []


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "http_option"),
        (("http_options",), "keep_alive_timeout"),
        (("applications", 0), "runtime_environment"),
        (("applications", 0, "deployments", 0), "max_ongoing_request"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_cpu"),
        (("logging_config",), "log_levle"),
    ],
)
def test_the_check_finds_a_misspelt_key_at_every_level(path, key):
    config = yaml.safe_load(SERVE_CONFIG.read_text())
    place = config
    for step in path:
        place = place[step]
    place[key] = 1
    assert [name.rsplit(".", 1)[1] for name in unknown_keys(config, [ServeDeploySchema])] == [key]


def test_ray_serve_takes_the_values():
    parsed = ServeDeploySchema.model_validate(CONFIG)
    assert [application.name for application in parsed.applications] == [
        "gateway",
        "streams",
        "sentiment",
        "collection",
    ]
    assert parsed.http_options.request_timeout_s is None, "it would cut every WebSocket at that second"


def test_the_applications_are_served_where_clients_look():
    routes = {name: application["route_prefix"] for name, application in APPLICATIONS.items()}
    assert routes == {"gateway": "/", "streams": "/ws", "sentiment": None, "collection": None}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_applications_import_path_leads_to_a_deployment_that_the_file_configures(name):
    module, attribute = APPLICATIONS[name]["import_path"].split(":")
    application = getattr(importlib.import_module(module), attribute)
    configured = [deployment["name"] for deployment in APPLICATIONS[name]["deployments"]]
    assert configured == [application._bound_deployment.name]


def test_open_streams_meet_the_polite_limit_before_serves_own():
    streams = APPLICATIONS["streams"]["deployments"][0]
    assert streams["max_ongoing_requests"] > Settings.model_fields["max_streams"].default


def test_no_replica_or_its_supervisor_holds_a_cpu_that_jobs_need():
    for application in CONFIG["applications"]:
        for deployment in application["deployments"]:
            assert deployment["ray_actor_options"]["num_cpus"] == 0


def test_health_checks_replace_a_dead_replica_within_seconds():
    for application in CONFIG["applications"]:
        for deployment in application["deployments"]:
            assert deployment["health_check_period_s"] <= 2


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_up_keeps_replicas_on_loopback_whatever_host_the_api_listens_on(tmp_path, host):
    options = Options(upstream="sandbox", data_dir=tmp_path, host=host, port=18_000, dashboard_port=18_001)
    plan = Plan.make(options, Settings(data_dir=tmp_path))
    config = plan.serve_config()
    assert config["http_options"] == CONFIG["http_options"] | {"host": "127.0.0.1", "port": 18_000}
    assert config["grpc_options"] == CONFIG["grpc_options"] | {"port": plan.head.ports.serve_grpc}
    assert config["applications"] == CONFIG["applications"]
    assert plan.choice == Choice("sandbox", "asked for")
