"""The simulator of kimi.com as a process, and its control interface."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests

from app.simulator import tokens
from tests.running.processes import Process
from tests.running.profiles import PROFILES, Profile

EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


CONNECT_STREAM = {"Content-Type": "application/connect+json"}


# Of all simulators of this process. Each test makes several calls; a connection for each, and a look at the$
# environment, took longer than the call itself.
_SESSION = requests.Session()
_SESSION.trust_env = False


def mint(
    user: str, lifetime_s: float = 86400, kind: tokens.Kind = "access", site: tokens.SiteName | None = None
) -> str:
    """A token that the simulator accepts."""
    return tokens.mint(user, kind, lifetime_s, site=site)


@dataclass
class Simulator:
    """A running simulator and its control interface."""

    url: str
    process: Process
    profile: Profile = PROFILES["all"]

    def control(self, method: str, path: str, **arguments: Any) -> Any:
        reply = _SESSION.request(method, f"{self.url}/_sim/{path}", timeout=60, **arguments)
        assert reply.ok, reply.text
        return reply.json()

    def reset(self) -> None:
        self.control("POST", "reset", json={"profile": self.profile.name})

    @property
    def turn_path(self) -> str:
        """A part of the path that turns have."""
        return "ChatService/Chat" if self.profile.speaks_connect else "/completion/stream"

    def knobs(self, **knobs: Any) -> None:
        self.control("POST", "knobs", json=knobs)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.control("GET", "state")
        return state

    def wait(self, field: str, timeout_s: float = 60, **condition: Any) -> None:
        """Waits until a counter has a value: ``wait("open_streams", equals=0)``."""
        query = {"field": field, "timeout_s": timeout_s, **condition}
        reply = _SESSION.get(f"{self.url}/_sim/wait", params=query, timeout=timeout_s + 15)
        assert reply.ok, f"{field} {condition} did not come true: {reply.text[:500]}"

    def open_gate(self, name: str) -> None:
        self.control("POST", f"gates/{name}/open")

    def requests(self, path_contains: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("GET", "requests", params={"path_contains": path_contains})
        # The catalogue is asked for in the background, at any time.
        return [r for r in found if path_contains or "GetAvailableModels" not in r["path"]]

    def turns(self) -> list["SentTurn"]:
        """What Kimi was asked, in order."""
        if not self.profile.speaks_connect:
            return [
                SentTurn(r["path"].split("/")[3], r["account"], r["json"]["messages"][0]["content"], r["json"])
                for r in self.requests(self.turn_path)
            ]
        new = iter(self.state()["chats"])
        return [
            SentTurn(
                frame.get("chat_id") or next(new, "none"),
                r["account"],
                frame["message"]["blocks"][0]["text"]["content"],
                frame,
            )
            for r in self.requests(self.turn_path)
            for frame in r["frames"]
        ]

    def prompts(self) -> list[str]:
        """The texts that were sent as turns, in order."""
        return [turn.text for turn in self.turns()]

    def script(
        self,
        body: bytes,
        *,
        cuts: Sequence[int] | str = (),
        framing: str = "chunked",
        end: str = "clean",
        headers: dict[str, str] | None = None,
        match: str | None = None,
        **more: Any,
    ) -> None:
        """The next turn is answered with exactly these bytes, cut at these offsets."""
        wish = {
            "match": match or self.turn_path,
            "body_base64": base64.b64encode(body).decode(),
            "cuts": cuts if isinstance(cuts, str) else list(cuts),
            "framing": framing,
            "end": end,
            "headers": self._stream_headers() if headers is None else headers,
            **more,
        }
        self.control("POST", "script", json=wish)

    def _stream_headers(self) -> dict[str, str]:
        return CONNECT_STREAM if self.profile.speaks_connect else EVENT_STREAM


@dataclass(frozen=True)
class SentTurn:
    """A turn as Kimi got it. A chat that was new has the id that it got."""

    chat: str
    account: str
    text: str
    body: dict[str, Any]
