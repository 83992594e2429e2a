"""WebSocket streams: ``/ws/prices``, ``/ws/ticks`` and ``/ws/news``. The protocol is described in docs/streams.md.

:func:`build_streams` makes an ASGI application from its dependencies; Serve mounts it at ``/ws``, a test runs it under
uvicorn. It needs a server whose ``send`` waits for a slow peer (uvicorn's does, and Serve's where user code runs in
the replica's own thread: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0); otherwise slow clients are never noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError

from ray_app.clock import Clock
from ray_app.collection.event_bus import Hotline
from ray_app.errors import StorageError
from ray_app.serving.auth_types import Authenticator
from ray_app.serving.channels import CHANNELS, PRICES, Channel
from ray_app.serving.keys import Level
from ray_app.serving.stream_connection import Connection, Limits
from ray_app.serving.stream_hub import ChannelHub
from ray_app.serving.subscriptions import BadMessage, Command, Resolver, parse_message
from ray_app.settings import Settings
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: path below the server or the mount → the channel it streams
PATHS = {f"{mount}/{channel.name}": channel for channel in CHANNELS for mount in ("", "/ws")}
INVALID_KEY = {"error": "Invalid API key"}


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server allows, beside the settings. Seconds are wall time."""

    first_message_s: float = 10.0
    #: messages in a row that could not be followed
    errors_in_a_row: int = 10
    #: how soon a revoked key ends its streams
    key_check_s: float = 5.0
    #: how long a shutdown waits for the clients to take their close frames
    shutdown_s: float = 5.0
    client: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class StreamDeps:
    """What the streams are made of.

    ``registry`` is asked again for each subscription; ``refresh`` names what is to be read anew (blocking) as often
    as the keys are: the registry's own source, if it has one.
    """

    db: Database
    hotline: Hotline | None
    keyring: Authenticator
    registry: Callable[[], Resolver]
    settings: Settings
    clock: Clock
    limits: ServerLimits = field(default_factory=ServerLimits)
    refresh: tuple[Callable[[], object], ...] = ()


@dataclass(frozen=True, slots=True)
class StreamsStatus:
    """How the streams are doing: what /health needs to know. Counts are since this process started."""

    ready: bool
    reading: bool
    hotline: str
    seq: int
    open: int
    max_open: int
    accepted: int
    refused: int
    slow: int
    unreadable_events: int


class Streams:
    """The ASGI application. The reader starts with the lifespan or with the first client, whichever comes first."""

    def __init__(self, deps: StreamDeps) -> None:
        self._deps = deps
        self._hubs: dict[str, ChannelHub] = {}  # prices from the start, others from the first client on
        self._hub = self._add_hub(PRICES)
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: dict[Socket, bytes | None] = {}  # with the key each was let in by
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._keys_known = asyncio.Event()
        self._accepted = self._refused = self._slow = 0

    # --- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start reading (once, and not after :meth:`aclose`; needs a running event loop)."""
        if not self._tasks and not self._closing:
            self._tasks = [asyncio.create_task(self._read(self._hub)), asyncio.create_task(self._check_keys())]

    async def aclose(self) -> None:
        """Tell every client that the service restarts (1012), wait a little, and stop."""
        self._closing = True
        for socket in list(self._sockets):
            socket.close(1012, "service restart")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deps.limits.shutdown_s):
                await self._idle.wait()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> StreamsStatus:
        """For /health and metrics."""
        feed = self._hub.feed
        return StreamsStatus(
            ready=self._hub.ready.is_set(),
            reading=bool(self._tasks) and not self._tasks[0].done() and not (feed is not None and feed.table_failing),
            hotline=feed.hotline_state if feed is not None else ("off" if self._deps.hotline is None else "ok"),
            seq=self._hub.seq,
            open=len(self._sockets),
            max_open=self._deps.settings.max_streams,
            accepted=self._accepted,
            refused=self._refused,
            slow=self._slow,
            unreadable_events=sum(hub.unreadable for hub in self._hubs.values()),
        )

    async def _read(self, hub: ChannelHub) -> None:
        while True:
            try:
                await hub.run()
            except Exception:
                # A bug must not silence every stream for good: it is logged with its stack, and reading starts anew.
                log.exception("%s stream: the reader failed", hub.channel.name)
                await asyncio.sleep(1)

    async def _check_keys(self) -> None:
        """End the streams of keys that were revoked or have expired."""
        while True:
            for refresh in (self._deps.keyring.refresh, *self._deps.refresh):
                try:
                    await asyncio.to_thread(refresh)
                except (StorageError, SQLAlchemyError) as error:
                    log.warning("prices stream: keys or assets cannot be refreshed: %s", type(error).__name__)
            self._keys_known.set()
            for socket, key in list(self._sockets.items()):
                if key is not None and self._deps.keyring.authenticate(key) is None:
                    socket.close(4401, "invalid API key", INVALID_KEY)
            await asyncio.sleep(self._deps.limits.key_check_s)

    # --- ASGI ----------------------------------------------------------------------------------------------

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case "http":
                await _http(scope, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        if _route(scope) not in PATHS:
            await send({"type": "websocket.close", "code": 1008, "reason": "no such stream"})
            return
        self.start()
        headers = [(b"x-data-origin", b"sandbox")] if self._deps.settings.origin == "sandbox" else []
        send = _polite(send)
        socket = Socket(self, self._deps, receive, send, self.hub_of(PATHS[_route(scope)]))
        # Counted before the first await: a burst of connections cannot slip through the cap together.
        refusal = self._refusal()
        if refusal is None:
            self._sockets[socket] = None
            self._idle.clear()
            self._accepted += 1
        else:
            self._refused += 1
        try:
            await send({"type": "websocket.accept", "headers": headers})
            if refusal is not None:
                await _turn_away(send, *refusal)
                return
            await socket.serve(_presented_key(scope))
        except OSError:
            pass  # the peer is gone: what ASGI servers raise from send() then
        finally:
            self._sockets.pop(socket, None)
            self._slow += socket.was_slow
            if not self._sockets:
                self._idle.set()

    def _refusal(self) -> tuple[int, str, dict[str, str]] | None:
        """Why no further client is taken: close code, reason and message; None if one is."""
        if self._closing:
            return 1012, "service restart", {"error": "the service restarts", "code": "SERVICE_UNAVAILABLE"}
        limit = self._deps.settings.max_streams
        if len(self._sockets) >= limit:
            reason = f"all {limit} streams of this replica are taken"
            return 1013, reason, {"error": f"{reason}; try again later", "code": "TOO_MANY_STREAMS"}
        return None

    async def authorise(self, socket: Socket, key: bytes) -> Level | None:
        """The level of ``key`` if it is good (its revocation will end ``socket``); None if not."""
        await self._keys_known.wait()
        principal = self._deps.keyring.authenticate(key)
        if principal is None:
            return None
        self._sockets[socket] = key
        return Level(principal.level)

    @property
    def hub(self) -> ChannelHub:
        """The state that the clients of ``prices`` see."""
        return self._hub

    def hub_of(self, channel: Channel[Any]) -> ChannelHub:
        """The state that the clients of a channel see."""
        hub = self._hubs.get(channel.name)
        if hub is None:
            hub = self._add_hub(channel)
            if not self._closing:
                self._tasks.append(asyncio.create_task(self._read(hub)))
        return hub

    def _add_hub(self, channel: Channel[Any]) -> ChannelHub:
        return self._hubs.setdefault(channel.name, ChannelHub(self._deps.db, self._deps.hotline, channel))


class Socket:
    """From the handshake to the close frame: authorisation, reading, errors in a row."""

    def __init__(self, streams: Streams, deps: StreamDeps, receive: Receive, send: Send, hub: ChannelHub) -> None:
        self._streams = streams
        self._limits = deps.limits
        self._choices = hub.channel.choices
        self._receive = receive
        self._connection = Connection(hub, deps.registry, deps.clock, send, deps.settings.origin, deps.limits.client)
        self._errors = 0

    @property
    def was_slow(self) -> bool:
        """Whether it is closed because the client did not keep up."""
        return self._connection.was_slow

    def close(self, code: int, reason: str, last_words: dict[str, Any] | None = None) -> None:
        """Close after what is queued; the first reason stands."""
        self._connection.close(code, reason, last_words)

    async def serve(self, header_key: bytes | None) -> None:
        """Serve the client until it goes or is sent away."""
        writer = self._connection.start()
        reader = asyncio.create_task(self._read(header_key))
        try:
            # The writer ends with the close frame; the reader with the peer. Whichever is first ends both.
            done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader in done and self._connection.closing_code is not None:
                await asyncio.wait({writer})
        finally:
            reader.cancel()
            results = await asyncio.gather(reader, return_exceptions=True)
            await self._connection.stop()
        _raise_bugs([*results, _outcome(writer)])

    async def _read(self, header_key: bytes | None) -> None:
        authorised = False
        if header_key is not None:
            authorised = await self._authorised(header_key)
            if not authorised:
                return
        try:
            async with asyncio.timeout(self._limits.first_message_s):
                while (text := await self._next()) is not None and not await self._first(text, authorised):
                    pass
        except TimeoutError:
            self.close(
                4408,
                "no subscription in time",
                {
                    "error": f"no subscription within {self._limits.first_message_s:g} s of connecting",
                    "code": "FIRST_MESSAGE_TIMEOUT",
                },
            )
            return
        if text is None or self._connection.closing_code is not None:
            return
        while (text := await self._next()) is not None:
            await self._follow(text)
            await asyncio.sleep(0)  # messages that are here already would be followed before any answer is written

    async def _authorised(self, key: bytes) -> bool:
        """Whether the key lets the client in; else it is on its way out."""
        level = await self._streams.authorise(self, key)
        if level is None:
            self.close(4401, "invalid API key", INVALID_KEY)
            return False
        self._connection.admit(level)
        return True

    async def _next(self) -> str | bytes | None:
        """The next message; None once the peer is gone or is being sent away."""
        message = await self._receive()
        if message["type"] != "websocket.receive" or self._connection.closing_code is not None:
            return None
        text: str | bytes | None = message.get("text")
        return text if text is not None else message.get("bytes") or b""

    async def _first(self, text: str | bytes, authorised: bool) -> bool:
        """Whether the opening is over: the client is in, or on its way out."""
        command = self._parsed(text)
        if command is None:
            return self._connection.closing_code is not None
        if not authorised and not await self._authorised((command.api_key or "").encode()):
            return True
        await self._obey(command)
        return True

    async def _follow(self, text: str | bytes) -> None:
        command = self._parsed(text)
        if command is not None:
            await self._obey(command)

    def _parsed(self, text: str | bytes) -> Command | None:
        try:
            return parse_message(text, self._choices)
        except BadMessage as error:
            self._complain(error)
            return None

    async def _obey(self, command: Command) -> None:
        try:
            await self._connection.obey(command)
            self._errors = 0
        except BadMessage as error:
            self._complain(error)

    def _complain(self, error: BadMessage) -> None:
        self._connection.say({"error": str(error), "code": error.code})
        self._errors += 1
        if self._errors >= self._limits.errors_in_a_row:
            self.close(
                1008,
                "too many errors",
                {"error": f"{self._errors} messages in a row could not be followed", "code": "TOO_MANY_ERRORS"},
            )


def build_streams(deps: StreamDeps) -> Streams:
    """The ASGI application of the streams; ``status()`` and ``aclose()`` are for whoever hosts it."""
    return Streams(deps)


def status_document(status: StreamsStatus) -> dict[str, Any]:
    """The status as plain data, to cross a process boundary."""
    return asdict(status)


def _route(scope: Message) -> str:
    """The path below the mount point; servers differ in whether ``path`` holds ``root_path``."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _presented_key(scope: Message) -> bytes | None:
    """The key in ``Authorization: Bearer`` or ``X-API-Key``; None if there is neither."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and credentials.strip():
        return bytes(credentials.strip())
    key = headers.get(b"x-api-key", b"").strip()
    return bytes(key) or None


def _polite(send: Send) -> Send:
    """``send`` that says "the peer is gone" in one way: servers raise RuntimeError where they closed it themselves."""

    async def guarded(message: Message) -> None:
        try:
            await send(message)
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error

    return guarded


async def _turn_away(send: Send, code: int, reason: str, message: dict[str, str]) -> None:
    await send({"type": "websocket.send", "text": orjson.dumps(message).decode()})
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def _http(scope: Message, send: Send) -> None:
    """Only WebSockets live here: say so in the API's own error format."""
    upgrade = _route(scope) in PATHS
    status, title = (426, "Upgrade Required") if upgrade else (404, "Not Found")
    problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": "this path speaks WebSocket only; see docs/streams.md" if upgrade else "no such stream",
        "code": "VALIDATION_ERROR",
    }
    headers = [(b"content-type", b"application/problem+json")]
    if upgrade:
        headers += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(problem)})


def _outcome(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() or not task.done() else task.exception()


def _raise_bugs(results: list[BaseException | None]) -> None:
    """A peer that is gone is no error; anything else is, and the server logs it."""
    for result in results:
        if result is not None and not isinstance(result, asyncio.CancelledError | OSError):
            raise result
