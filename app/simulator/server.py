"""The listening socket, the connections, and which request goes to whom.

Knows every path. Must never know what a reply says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from app.simulator import (
    connect,
    connect_calls,
    connect_errors,
    connect_files,
    connect_resume,
    edge,
    rest,
    sse,
    sse_errors,
)
from app.simulator.control import control
from app.simulator.http1 import BadRequest, Connection, Protocol, Reply, Request, json_reply
from app.simulator.knobs import CONNECT_PROFILES, SSE_PROFILES, Knobs
from app.simulator.replies import ScriptedReply, send_scripted
from app.simulator.simulation import Exchange, Simulation
from app.simulator.tokens import InvalidToken, check
from app.simulator.world import Generation

_BACKLOG = 4096

Answer = Callable[..., Awaitable[Reply | None]]
"""Replies itself where it returns nothing; gets the exchange and the groups of the path."""


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: re.Pattern[str]
    answer: Answer
    place: str
    """Where this is for the knob `fail_at`; a turn looks after its faults itself."""
    generation: Generation
    login: bool = True
    always: bool = False
    """Served also where the profile lacks the generation."""


def _sse(
    method: str, path: str, answer: Answer, place: str = "other", *, login: bool = True, always: bool = False
) -> _Route:
    return _Route(method, re.compile(path), answer, place, "sse", login, always)


def _connect(package: str, methods: str, answer: Answer, place: str = "other", *, login: bool = True) -> _Route:
    path = re.compile(rf"/apiv2/{package}/{methods}")
    return _Route("POST", path, answer, place, "connect", login)


_CHAT = "/api/chat/([^/]+)"
_CHAT_SERVICE = r"kimi\.(?:gateway\.)?chat\.v1\.ChatService"  # answers under two names (1.2)
_SUBSCRIPTION_SERVICE = r"kimi\.gateway\.(?:order\.v1\.SubscriptionService|membership\.v2\.MembershipService)"
_OBJECT = "/apiv2-files/sign-obj/kimi-fs/files/blob/([^/]+)"
_REFRESH_R2 = r"/api/account\.gateway\.v1\.AuthService/RefreshToken"
_ROUTES = [
    _sse("POST", f"{_CHAT}/completion/stream", sse.complete, "turn"),
    _sse("POST", "/api/chat", rest.create_chat, "create"),
    _sse("POST", "/api/chat/list", rest.list_chats),
    _sse("DELETE", _CHAT, rest.delete_chat, "delete"),
    _sse("GET", "/api/auth/token/refresh", rest.refresh, "refresh", login=False, always=True),
    _sse("POST", "/api/auth/token/refresh", rest.refresh, "refresh", login=False, always=True),
    _sse("POST", f"{_CHAT}/segment/scroll", rest.history),
    _sse("POST", "/api/chat/segment/v3/rag-refs", rest.citations),
    _sse("POST", f"{_CHAT}/(?:token_size|pre-n2s)", rest.nothing),
    _sse("POST", "/api/(?:suggestion|prompt-snippet/instance|user/usage|show_case/list)", rest.nothing),
    _sse("POST", "/api/kimiplus/(?:history|search)", rest.nothing),
    _sse("GET", "/api/(?:chat_1m|kimi_mv)/user/status", rest.nothing),
    _sse("GET", "/api/chat/research/usage", rest.research_usage),
    _sse("GET", "/api/user", rest.user),
    _sse("POST", "/api/device/register", rest.register_device, login=False),
    _sse("POST", "/api/pre-sign-url", rest.sign_upload),
    _sse("POST", "/api/file", rest.register_file),
    _sse("POST", "/api/file/parse_process", rest.parse_files),
    # `Chat` looks after its login itself: a bad token may be told inside the stream (Q17).
    _connect(_CHAT_SERVICE, "Chat", connect.chat, "turn", login=False),
    _connect(_CHAT_SERVICE, "ListChats", connect_calls.list_chats),
    _connect(_CHAT_SERVICE, "GetChat", connect_calls.get_chat),
    _connect(_CHAT_SERVICE, "ListMessages", connect_calls.list_messages),
    _connect(_CHAT_SERVICE, "DeleteChat", connect_calls.delete_chat, "delete"),
    _connect(_CHAT_SERVICE, "UpdateChat", connect_calls.update_chat),
    _connect(_CHAT_SERVICE, "CancelChat", connect_calls.cancel_chat),
    _connect(_CHAT_SERVICE, "ResumeChat", connect_resume.resume_chat),
    _connect(_CHAT_SERVICE, "GetMessage", connect_resume.get_message),
    _connect(r"kimi\.gateway\.config\.v1\.ConfigService", "GetAvailableModels", connect_calls.models, login=False),
    _connect(_SUBSCRIPTION_SERVICE, "GetSubscription", connect_calls.subscription),
    _connect(_SUBSCRIPTION_SERVICE, "GetSubscriptionStats", connect_calls.subscription_stats),
    _connect(r"kimi\.gateway\.account\.v1\.UserService", "GetCurrentUser", connect_calls.current_user),
    _Route("POST", re.compile("/apiv2-files/file/upload"), connect_files.upload, "other", "connect"),
    _Route(
        "POST",
        re.compile(r"/apiv2-files/kimi\.gateway\.file\.v1\.FileService/GetFileParseProgress"),
        connect_files.progress,
        "other",
        "connect",
    ),
    _Route("GET", re.compile(_OBJECT), connect_files.fetch, "other", "connect", login=False),
    _Route("HEAD", re.compile(_OBJECT), connect_files.fetch, "other", "connect", login=False),
    _connect(r"kimi\.gateway\.storage\.v1\.StorageService", "GetUserStorageQuota", connect_files.storage_quota),
    _Route("POST", re.compile(_REFRESH_R2), connect_calls.refresh, "refresh", "connect", login=False),
    _sse("PUT", "/_sim/objects/([^/]+)", rest.store_object, login=False, always=True),
]


class Server:
    """Serves one simulation on one port."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> tuple[asyncio.Server, int]:
        """The listening server and its port; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Protocol(self._serve), host, port, backlog=_BACKLOG)
        return server, int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Ends every connection, whatever it is doing."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, connection: Connection) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        visit = _Visit(self._sim)
        try:
            # A client that leaves cancels the task: its connection is all that the task was for.
            with suppress(asyncio.CancelledError, ConnectionError):
                await self._converse(connection, visit)
        finally:
            visit.end()
            self._serving.discard(task)
            connection.close()

    async def _converse(self, connection: Connection, visit: _Visit) -> None:
        try:
            while connection.reusable and (request := await connection.read_request()):
                await self._reply(Exchange(self._sim, connection, request), visit)
        except BadRequest as error:
            await connection.send(json_reply({"error_type": "request.invalid", "message": str(error)}, 400))

    async def _reply(self, exchange: Exchange, visit: _Visit) -> None:
        request = exchange.request
        if request.path.startswith("/_sim/") and not request.path.startswith("/_sim/objects/"):
            await exchange.connection.send(await control(exchange))
            return
        visit.begin()
        self._note(exchange)
        scripted = self._scripted(exchange)
        if scripted:
            await self._send_scripted(scripted, exchange)
            return
        await self._route(exchange)

    def _note(self, exchange: Exchange) -> None:
        sim = self._sim
        with suppress(InvalidToken):
            claims = check(exchange.request.bearer)
            is_foreign = exchange.site not in (None, claims.site or "kimi.com")
            is_good = claims.kind == "access" and not (is_foreign and sim.knobs.foreign_site == "refuse")
            exchange.account = sim.world.account(claims) if is_good else None
        sim.total_requests += 1
        if sim.knobs.record:
            sim.records.add(exchange.request, exchange.account.name if exchange.account else "")
        sim.bell.ring()

    def _scripted(self, exchange: Exchange) -> ScriptedReply | None:
        name = exchange.account.name if exchange.account else ""
        for reply in self._sim.scripted:
            if reply.match in exchange.request.path and reply.account in ("", name):
                reply.times -= 1
                if reply.times <= 0:
                    self._sim.scripted.remove(reply)
                return reply
        return None

    async def _send_scripted(self, reply: ScriptedReply, exchange: Exchange) -> None:
        with self._sim.streaming(exchange.account):
            exchange.connection.watch()
            try:
                await send_scripted(reply, exchange.connection, self._sim.gates)
            finally:
                exchange.connection.unwatch()

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        for route in _ROUTES:
            match = route.path.fullmatch(request.path)
            if match and route.method == request.method:
                reply = await self._answer(route, exchange, match.groups())
                break
        else:
            reply = self._gone(request)
        if reply:
            await exchange.connection.send(reply)

    async def _answer(self, route: _Route, exchange: Exchange, groups: tuple[str, ...]) -> Reply | None:
        if not route.always and route.generation not in _served(self._sim.knobs.profile):
            return self._gone(exchange.request)
        if self._is_absent(route):
            return self._gone(exchange.request)
        refusal = _REFUSALS[route.generation]
        if route.login and exchange.account is None:
            return refusal("token_invalid", Knobs(), "")
        if route.place != "turn":
            fault = self._sim.fault(route.place, exchange.account, self._sim.knobs, {})
            if fault == "silent_headers":
                await self._say_nothing(exchange)
            refused = refusal(fault, self._sim.knobs, exchange.request.path)
            if refused:
                return refused
        return await route.answer(exchange, *groups)

    def _is_absent(self, route: _Route) -> bool:
        knobs = self._sim.knobs
        return (
            (route.answer is connect_calls.models and knobs.catalogue == "absent")
            or (route.answer is connect_calls.subscription_stats and knobs.stats == "absent")
            or (route.answer is connect_resume.resume_chat and not connect.serves_resume(knobs))
            or (route.answer is connect_resume.get_message and not connect.serves_messages(knobs))
        )

    async def _say_nothing(self, exchange: Exchange) -> None:
        exchange.connection.watch()
        await asyncio.Event().wait()

    def _gone(self, request: Request) -> Reply:
        knobs = self._sim.knobs
        if knobs.gone_status in (301, 302, 307, 308):
            return edge.redirect(knobs, knobs.gone_status, request.path)
        error = {"error_type": "path.not_found", "message": f"no such path: {request.method} {request.path}"}
        return json_reply(error, knobs.gone_status)


class _Visit:
    """One connection in the counts; those that only carry control calls are not counted."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._counted = False

    def begin(self) -> None:
        if not self._counted:
            self._counted = True
            self._sim.open_connections += 1
            self._sim.total_connections += 1

    def end(self) -> None:
        if self._counted:
            self._sim.open_connections -= 1
            self._sim.bell.ring()


def _served(profile: str) -> tuple[Generation, ...]:
    if profile in SSE_PROFILES:
        return ("sse",)
    return ("connect",) if profile in CONNECT_PROFILES else ("sse", "connect")


_REFUSALS: dict[Generation, Callable[[str, Knobs, str], Reply | None]] = {
    "sse": sse_errors.refusal,
    "connect": connect_errors.refusal,
}
