"""The corrections to the configuration that Ray Serve writes for HAProxy."""

from __future__ import annotations

import os
import subprocess

import pytest

from ray_app.node.haproxy import LISTEN_HOST, install, rewrite

CONFIG = """\
global
    stats socket /tmp/a.sock mode 666 level admin expose-fd listeners
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
    use_backend http-gateway
backend http-gateway
    server a 127.0.0.1:30000 check
    server b 127.0.0.1:8500 check backup
backend http-streams
    server c 127.0.0.1:30001 check
listen stats
    bind *:8404
"""


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_what_asks_for_no_password_listens_on_loopback():
    lines = lines_of(rewrite(CONFIG))
    assert "bind 127.0.0.1:9101" in lines
    assert "bind 127.0.0.1:8404" in lines


def test_the_admin_socket_is_the_owners_alone():
    assert "stats socket /tmp/a.sock mode 600 level admin expose-fd listeners" in lines_of(rewrite(CONFIG))


def test_only_the_gateways_replicas_have_few_connections():
    lines = lines_of(rewrite(CONFIG))
    assert "server a 127.0.0.1:30000 check maxconn 32" in lines
    assert "server b 127.0.0.1:8500 check backup" in lines
    assert "server c 127.0.0.1:30001 check" in lines


@pytest.mark.parametrize(
    ("host", "bound"), [("0.0.0.0", "0.0.0.0:8000"), ("::1", "[::1]:8000"), (None, "127.0.0.1:8000")]
)
def test_the_api_listens_where_it_was_asked_to_and_nothing_else_moves(host, bound):
    moved, left = lines_of(rewrite(CONFIG, host)), lines_of(rewrite(CONFIG))
    assert [line for line in moved if line not in left] == ([f"bind {bound}"] if host else [])
    assert f"bind {bound}" in moved


@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_correcting_twice_changes_nothing(host):
    once = rewrite(CONFIG, host)
    assert rewrite(once, host) == once


def test_the_wrapper_becomes_haproxy_with_the_corrected_file(tmp_path):
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    script = install(tmp_path / "bin" / "haproxy")
    done = subprocess.run(
        [script, "-v", "-f", str(config)], env=os.environ | {LISTEN_HOST: "0.0.0.0"}, capture_output=True, text=True
    )
    assert "HAProxy version" in done.stdout
    assert config.read_text() == rewrite(CONFIG, "0.0.0.0")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["haproxy.cfg"]
