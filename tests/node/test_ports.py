"""Ports: free ones found, taken ones named, open ones listed."""

from __future__ import annotations

import os
import socket

import pytest

from ray_app.errors import NodeError
from ray_app.node import ports
from ray_app.node.ports import (
    BLOCK,
    FIRST_PORT,
    LAST_PORT,
    REPLICA_PORTS,
    Ports,
    choose_ports,
    is_free,
    listening_ports,
    open_addresses,
    owner_of,
)
from tests.servers import free_port


def numbers(found: Ports) -> list[int]:
    """Every port of the block, the replicas' ranges included."""
    single = [getattr(found, name) for name in Ports.__dataclass_fields__ if not name.startswith("replica_")]
    return [
        *single,
        *range(found.replica_http, found.replica_http + REPLICA_PORTS),
        *range(found.replica_grpc, found.replica_grpc + REPLICA_PORTS),
    ]


def test_no_port_is_used_twice_and_all_inner_ones_lie_in_the_block():
    found = numbers(Ports.from_block(20_000, 8_000, 8_265))
    assert len(set(found)) == len(found)
    assert {port for port in found if not 20_000 <= port < 20_000 + BLOCK} == {8_000, 8_265}


def test_a_node_finds_the_same_block_again_and_another_directory_another(tmp_path):
    api, dashboard = free_port(), free_port()
    one = choose_ports(tmp_path / "one", "127.0.0.1", api, dashboard)
    assert choose_ports(tmp_path / "one", "127.0.0.1", api, dashboard) == one
    assert choose_ports(tmp_path / "two", "127.0.0.1", api, dashboard).gcs != one.gcs


def test_a_block_with_a_taken_port_is_passed_over(tmp_path):
    api, dashboard = free_port(), free_port()
    first = choose_ports(tmp_path, "127.0.0.1", api, dashboard)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", first.replica_grpc + 3))
        somebody.listen(1)
        second = choose_ports(tmp_path, "127.0.0.1", api, dashboard)
    assert second.gcs == FIRST_PORT + (first.gcs - FIRST_PORT + BLOCK) % (LAST_PORT - FIRST_PORT)


def test_the_operators_ports_are_not_taken_for_anything_else(tmp_path):
    first = choose_ports(tmp_path, "127.0.0.1", free_port(), free_port())
    second = choose_ports(tmp_path, "127.0.0.1", first.sandbox, free_port())
    assert first.sandbox not in numbers(second)[1:]


def test_too_many_servers_are_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "listening_ports", lambda: set(range(FIRST_PORT, LAST_PORT)))
    with pytest.raises(NodeError, match=f"no {BLOCK} free ports in a row between {FIRST_PORT} and {LAST_PORT}"):
        choose_ports(tmp_path, "127.0.0.1", free_port(), free_port())


def test_a_port_below_1024_is_the_systems(tmp_path, monkeypatch):
    def forbidden(port, host):
        return PermissionError(13, "Permission denied") if port == 80 else None

    monkeypatch.setattr(ports, "_problem", forbidden)
    with pytest.raises(NodeError, match="port 80 needs more rights than this user has; choose one above 1023"):
        choose_ports(tmp_path, "127.0.0.1", 80, 8_265)


def test_an_agent_that_outlived_a_killed_node_is_called_so(tmp_path, monkeypatch, listener):
    class Cmdline:
        @staticmethod
        def read_bytes():
            return b"python\0-u\0/ray/dashboard/agent.py\0--listen-port=52365\0"

    real = ports.Path
    monkeypatch.setattr(ports, "Path", lambda path: Cmdline if path.endswith("/cmdline") else real(path))
    with pytest.raises(NodeError, match="an agent that outlived a killed Ray node"):
        choose_ports(tmp_path, "127.0.0.1", listener, free_port())


def test_a_listening_port_is_seen_with_its_owner(listener):
    assert not is_free(listener)
    assert listener in listening_ports()
    assert owner_of(listener) == os.getpid()
    assert ("127.0.0.1", listener, os.getpid()) in open_addresses({os.getpid()})


def test_a_port_that_anybody_may_reach_is_listed_as_such():
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::", 0))
        server.listen(1)
        port = server.getsockname()[1]
        assert ("::", port, os.getpid()) in open_addresses({os.getpid()})
        assert not is_free(port, "0.0.0.0")
    assert is_free(port)


def test_nobody_owns_a_free_port():
    assert owner_of(free_port()) is None
