"""The sandbox as a process: uvicorn on loopback, ended by SIGTERM or Ctrl-C within a second."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ray_app.errors import ConfigError, NodeError
from ray_app.sandbox.app import ABORT, SandboxApp

#: wall seconds that answers under way have to finish once the end is asked for
_LAST_WORDS_S = 0.5


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also lets the application break its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"abort": self._abort}}

    def _abort(self, reset: bool) -> None:
        if not reset:
            self.transport.close()  # what was sent still arrives, then the stream ends
            return
        connection = self.transport.get_extra_info("socket")
        # Linger 0: the peer sees a reset, not an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server with our own signals: it ends with status 0 and says when it is ready."""

    def __init__(self, app: SandboxApp, on_ready: Callable[[], None], *, own_signals: bool = True) -> None:
        super().__init__(_config(app))
        self._app = app
        self._on_ready = on_ready
        self._own_signals = own_signals
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if self._own_signals:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.end)
        yield

    def end(self) -> None:
        """Stop listening, break off the answers that a fault holds back, and return. From any thread."""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.should_exit = True
        self._app.ending.set()
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._force)

    def _force(self) -> None:
        self.force_exit = True


def require_loopback(host: str) -> None:
    """ConfigError unless ``host`` is a loopback address: made-up prices must never look like a real upstream."""
    try:
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise ConfigError(f"the sandbox listens on loopback only, not on {host!r}; use 127.0.0.1")


def listen(host: str, port: int) -> socket.socket:
    """A listening address; port 0 takes a free one. ConfigError where the port is taken."""
    require_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio switches Nagle's delay off only where it knows that the socket is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error
    return listener


def serve(app: SandboxApp, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; closes the listener and the app's log."""
    _run(_Server(app, on_ready), app, listener)


@contextlib.contextmanager
def running(app: SandboxApp) -> Iterator[str]:
    """A server of ``app`` in a thread, on a free port, for the block; yields its URL. For tests."""
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = _Server(app, ready.set, own_signals=False)
    thread = threading.Thread(target=_run, args=(server, app, listener), name="sandbox")
    thread.start()
    try:
        if not ready.wait(30):
            raise NodeError("the sandbox's server did not start within 30 s")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        thread.join()


def _config(app: SandboxApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # loopback
        lifespan="on",
        log_level="warning",
        access_log=False,
        date_header=False,  # the answers carry node time
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )


def _run(server: _Server, app: SandboxApp, listener: socket.socket) -> None:
    serving: Any = server.serve(sockets=[listener])
    try:
        asyncio.run(serving)
    finally:
        listener.close()
        app.close()
