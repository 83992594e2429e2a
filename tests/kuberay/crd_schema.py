"""A CustomResourceDefinition's OpenAPI schema as a strict JSON Schema: what the API server would refuse, fails here."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parent / "crds"


def schema_of(plural: str, version: str = "v1") -> dict[str, Any]:
    """The closed JSON Schema of one of KubeRay's resources, e.g. ``rayservices``."""
    crd = yaml.load(gzip.decompress((CRDS / f"ray.io_{plural}.yaml.gz").read_bytes()), yaml.CSafeLoader)
    [found] = [entry for entry in crd["spec"]["versions"] if entry["name"] == version]
    closed = _close(found["schema"]["openAPIV3Schema"])
    closed["properties"]["metadata"] = {"type": "object"}
    return closed


def _close(node: Any) -> Any:
    """Unknown fields are errors (a typo would be pruned silently), int-or-string is what it says."""
    if isinstance(node, list):
        return [_close(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _close(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if node.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
