"""A raylet that takes its time is waited for."""

from __future__ import annotations

import inspect

import pytest
from ray._private import node, services

from ray_app.node import start_ray


def test_a_raylet_that_registers_late_is_found(monkeypatch):
    monkeypatch.setattr(start_ray, "LOOK_EVERY_S", 0.0)
    answers = [RuntimeError("not yet"), RuntimeError("not yet"), {"node_id": "x"}]

    def look(address, *, node_id):
        assert (address, node_id) == ("gcs", "x")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert start_ray.patient(look)("gcs", node_id="x") == {"node_id": "x"}


def test_patience_ends_with_rays_own_words():
    def look():
        raise RuntimeError("Ray could not find itself")

    with pytest.raises(RuntimeError, match="could not find itself"):
        start_ray.patient(look, 0.0)()


def test_other_failures_are_not_waited_out():
    def look():
        raise ConnectionError("the GCS is gone")

    with pytest.raises(ConnectionError):
        start_ray.patient(look)()


def test_ray_still_looks_for_its_node_where_we_reach_it():
    starting = inspect.getsource(node.Node.__init__)
    assert "ray._private.services.get_node(" in starting
    assert "except RuntimeError" in starting
    assert callable(services.get_node)


def test_ray_still_starts_its_client_server_where_we_leave_it_out():
    assert "self.start_ray_client_server()" in inspect.getsource(node.Node.start_head_processes)
