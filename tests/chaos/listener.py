"""A consumer of the stream that lives through all of it: it reconnects, resumes, and misses or hears twice nothing."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable

import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from tests.nodes import Node


class Listener:
    """Hears every event of every asset. ``node``: the node of the moment. ``position``: it has all up to this number."""

    def __init__(self, node: Callable[[], Node]) -> None:
        self.position: int | None = None
        self.heard = 0
        self.connections = 0
        self.problems: list[str] = []
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, TimeoutError, websockets.exceptions.WebSocketException):
                self._listen()
            self._over.wait(0.5)

    def _listen(self) -> None:
        node = self._node()
        headers = {"Authorization": f"Bearer {node.key('readonly')}"}
        url = f"ws://127.0.0.1:{node.port}/ws/prices"
        with connect(url, additional_headers=headers, proxy=None, open_timeout=10, max_size=None) as socket:
            self.connections += 1
            wish = (
                {"action": "subscribe"} if self.position is None else {"action": "resume", "after_seq": self.position}
            )
            socket.send(json.dumps({**wish, "symbols": ["*"], "repairs": True}))
            while not self._over.is_set():
                self._hear(socket)

    def _hear(self, socket: ClientConnection) -> None:
        message = json.loads(socket.recv(timeout=40))  # a heartbeat comes every 15 s
        kind, seq = message.get("type"), message.get("seq")
        if "error" in message:
            raise OSError(message["error"])  # said with a reason: come back later
        if kind == "gap":
            self.problems.append(f"after {self.position}: {message}")
        elif kind == "snapshot" and self.position is None:
            self.position = seq
        elif kind in {"price_update", "price_repair"}:
            if self.position is None or seq != self.position + 1:
                self.problems.append(f"event {seq} follows {self.position}")
            self.position = seq
            self.heard += 1
        elif kind == "heartbeat" and self.position is not None and seq > self.position:
            self.problems.append(f"a heartbeat says {seq} and {self.position} was the last event")
            self.position = seq
