"""The control interface under `/_sim/`: state, waiting, records, knobs, scripted replies, gates.

Knows how tests talk to the simulator; none of it exists at kimi.com. No login: it listens on loopback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.simulator.http1 import Reply, json_reply
from app.simulator.knobs import BadKnob
from app.simulator.replies import parse_scripted
from app.simulator.simulation import Exchange, Simulation
from app.simulator.tokens import check, mint
from app.simulator.world import Message


class _Refused(Exception):
    """The call makes no sense; the message says why."""


async def control(exchange: Exchange) -> Reply:
    """The reply to one call of the control interface."""
    request = exchange.request
    name, _, rest = request.path.removeprefix("/_sim/").partition("/")
    call = _CALLS.get((request.method, name))
    if call is None:
        return json_reply({"error": f"no such call: {request.method} {request.path}"}, 404)
    try:
        return await call(exchange, rest)
    except (BadKnob, _Refused, KeyError, TypeError, ValueError) as error:
        return json_reply({"error": f"{type(error).__name__}: {error}"}, 400)


async def _health(_: Exchange, __: str) -> Reply:
    return json_reply({"ok": True})


async def _state(exchange: Exchange, _: str) -> Reply:
    return json_reply(state(exchange.sim))


def state(sim: Simulation) -> dict[str, Any]:
    """Everything countable."""
    return {
        **_counters(sim),
        "chats": {
            chat.id: {
                "owner": chat.owner.name,
                "deleted": chat.deleted,
                "turns": chat.turns,
                "generation": chat.generation,
                "name": chat.name,
                "streaming": chat.streaming,
                "collisions": chat.collisions,
            }
            for chat in sim.world.chats.values()
        },
        "accounts": {
            account.name: {
                "sub": account.sub,
                "turns": account.turns,
                "refreshes": account.refreshes,
                "stale_refreshes": account.stale_refreshes,
                "open_streams": account.open_streams,
                "max_open_streams": account.max_open_streams,
            }
            for account in sim.world.accounts.values()
        },
        "uploads": [
            {
                "id": file.id,
                "owner": file.owner.name if file.owner else "",
                "digest": file.checksum,
                "file": file.described,
            }
            for file in sim.world.files.values()
        ],
        "gates": sim.gates.counts(),
        "faults": dict(sim.struck),
    }


def _counters(sim: Simulation) -> dict[str, int]:
    """The part of the state that costs nothing to look at, however many chats there are."""
    accounts = sim.world.accounts.values()
    return {
        "open_streams": sim.streams.open,
        "total_streams": sim.streams.total,
        "max_open_streams": sim.streams.most,
        "open_connections": sim.open_connections,
        "total_connections": sim.total_connections,
        "total_requests": sim.total_requests,
        "total_chats": len(sim.world.chats),
        "deleted_chats": sim.world.deleted_chats,
        "turns": sum(account.turns for account in accounts),
        "files": len(sim.world.files),
        "refreshes": sum(account.refreshes for account in accounts),
        "stale_refreshes": sum(account.stale_refreshes for account in accounts),
        "scripted_replies": sum(reply.times for reply in sim.scripted),
    }


async def _wait(exchange: Exchange, _: str) -> Reply:
    sim, query = exchange.sim, exchange.request.query
    came_true = await sim.bell.wait_until(lambda: _holds(sim, query), float(query.get("timeout_s", "10")))
    return json_reply(state(sim), 200 if came_true else 408)


def _holds(sim: Simulation, query: Mapping[str, str]) -> bool:
    value = _field(sim, query["field"])
    if "equals" in query:
        return str(value).lower() == query["equals"].lower()
    if "at_least" in query:
        return float(value) >= float(query["at_least"])
    raise _Refused("expected equals or at_least")


def _field(sim: Simulation, path: str) -> Any:
    """A counter, `gate:NAME`, `gate_waiting:NAME`, or a dotted path; what is not there yet is 0."""
    kind, _, gate = path.partition(":")
    if kind == "gate":
        return sim.gates[gate].arrived
    if kind == "gate_waiting":
        return sim.gates[gate].waiting
    counters = _counters(sim)
    if path in counters:
        return counters[path]
    value: Any = state(sim)
    for step in path.split("."):
        value = value.get(step, 0) if isinstance(value, dict) else 0
    return len(value) if isinstance(value, dict) else value


async def _requests(exchange: Exchange, _: str) -> Reply:
    return json_reply(exchange.sim.records.shown(exchange.request.query.get("path_contains", "")))


async def _turns(exchange: Exchange, _: str) -> Reply:
    return json_reply(exchange.sim.records.turns(int(exchange.request.query.get("after", "0"))))


async def _forget_requests(exchange: Exchange, _: str) -> Reply:
    exchange.sim.records.clear()
    return json_reply({})


async def _add_chats(exchange: Exchange, _: str) -> Reply:
    """Chats that an earlier simulator had. What was said in them is not known, only how they end."""
    world = exchange.sim.world
    for fields in exchange.request.json_object()["chats"]:
        chat_id, generation, last = str(fields["id"]), fields["generation"], str(fields.get("last_message") or "")
        if generation not in ("sse", "connect"):
            raise _Refused(f"generation: expected sse or connect, got {generation!r}")
        if chat_id in world.chats:
            raise _Refused(f"there is a chat {chat_id!r} already")
        owner = world.account(check(mint(str(fields["account"]))))
        chat = world.new_chat(owner, "Untitled Chat", generation, chat_id)
        if last:
            chat.add(Message(last, "", "assistant"))
    exchange.sim.bell.ring()
    return json_reply({"chats": len(world.chats)})


async def _knobs(exchange: Exchange, _: str) -> Reply:
    return json_reply(dataclasses.asdict(exchange.sim.knobs))


async def _turn_knobs(exchange: Exchange, _: str) -> Reply:
    exchange.sim.turn_knobs(exchange.request.json_object())
    return await _knobs(exchange, "")


async def _reset(exchange: Exchange, _: str) -> Reply:
    exchange.sim.reset()
    if exchange.request.body:
        exchange.sim.turn_knobs(exchange.request.json_object())
    return json_reply({})


async def _script(exchange: Exchange, _: str) -> Reply:
    exchange.sim.scripted.append(parse_scripted(exchange.request.json_object()))
    return json_reply({"queued": len(exchange.sim.scripted)})


async def _forget_scripts(exchange: Exchange, _: str) -> Reply:
    exchange.sim.scripted.clear()
    return json_reply({})


async def _gate(exchange: Exchange, rest: str) -> Reply:
    name, _, action = rest.rpartition("/")
    gate = exchange.sim.gates[name]
    if action == "open":
        gate.opened.set()
    elif action == "close":
        gate.opened.clear()
    else:
        raise _Refused(f"expected /_sim/gates/NAME/open or /close, got {rest!r}")
    return json_reply({"arrived": gate.arrived, "waiting": gate.waiting})


_CALLS: dict[tuple[str, str], Callable[[Exchange, str], Awaitable[Reply]]] = {
    ("GET", "health"): _health,
    ("GET", "state"): _state,
    ("GET", "wait"): _wait,
    ("GET", "requests"): _requests,
    ("DELETE", "requests"): _forget_requests,
    ("GET", "turns"): _turns,
    ("POST", "chats"): _add_chats,
    ("GET", "knobs"): _knobs,
    ("POST", "knobs"): _turn_knobs,
    ("POST", "reset"): _reset,
    ("POST", "script"): _script,
    ("DELETE", "script"): _forget_scripts,
    ("POST", "gates"): _gate,
}
