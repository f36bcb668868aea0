"""Secrets that are planted, and searched for wherever the gateway writes. ``running`` searches after all tests."""

import json

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Running, Simulator, ask, mint, wait_until

_FAULTS = (
    "token_invalid", "account_abnormal", "forbidden_html", "forbidden_chat", "stream_pushing", "overloaded",
    "too_long", "moderated", "error_unknown", "not_found", "http_429", "http_500", "redirect", "html_200",
    "json_200", "bad_request", "model_422", "empty_close", "drop", "done_only", "silent_body",
)  # fmt: skip


def test_no_secret_and_no_text_is_in_any_log_or_database(running: Running, simulator: Simulator) -> None:
    token, key = mint("canary-account"), "canary-key-0123456789"
    with running.gateway(
        simulator.url,
        KIMI_TOKENS=f"canary={token}",
        GATEWAY_API_KEYS=key,
        FIRST_EVENT_TIMEOUT_S="0.5",
        IDLE_TIMEOUT_S="0.5",
    ) as gateway:
        exercise(gateway, simulator, key)
    assert running.leaks([token, key]) == []


def exercise(gateway: Gateway, simulator: Simulator, key: str) -> None:
    """Every kind of success and of failure, with the key and the text that are searched for."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "k2", "messages": [{"role": "user", "content": CANARY}]}
    for fault in ("", *_FAULTS):
        simulator.knobs(fail=fault, say=f"the answer {CANARY}", unknown=True)
        for path in ("/v1/chat/completions", "/v1/chat/completions/canary"):
            for stream in (False, True):
                gateway.post(path, json={**body, "stream": stream}, headers=headers)
    gateway.post("/v1/chat/completions", data=f'{{"model": "{CANARY}', headers=headers)
    gateway.post("/v1/chat/completions", json={"model": "k2", "messages": [CANARY]}, headers=headers)
    gateway.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}x"})
    gateway.post(f"/v1/{CANARY}", json=body, headers=headers)
    ask(gateway, False)


_FORGED = "2026-11-23 00:00:00,000 ERROR [1] [-] app: forged"


@EACH_GENERATION
def test_what_kimi_says_shows_no_token_and_makes_no_line_of_the_log(
    running: Running, simulator: Simulator, profile: Profile
) -> None:
    token = "an-opaque-token-0123456789"
    says = f"no such token: {token}\r\n{_FORGED}\x1b[2J\u2028"
    error = {"error_type": "chat.something_new", "code": "failed_precondition", "message": says}
    first_call = simulator.turn_path if profile.speaks_connect else "/api/chat"
    simulator.script(
        json.dumps(error).encode(), match=first_call, status=400, headers={"Content-Type": "application/json"}
    )
    with running.gateway(simulator.url, KIMI_TOKENS=f"opaque={token}", FAILOVER_S="0") as gateway:
        message = gateway.say("hello").json()["error"]["message"]
        log = gateway.log()
    assert token not in message and message.isprintable()
    assert f"(Kimi says: no such token: [secret] {_FORGED} [2J)" in message
    assert token not in log and not any(line.startswith(_FORGED) for line in log.splitlines())


def test_what_kimi_calls_an_event_makes_no_line_of_the_log(running: Running, simulator: Simulator) -> None:
    events = ({"event": f"odd\n{_FORGED[:30]}"}, {"event": "cmpl", "text": "hello"}, {"event": "all_done"})
    simulator.script(b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events))
    with running.gateway(simulator.url, KIMI_PROTOCOL="sse") as gateway:
        assert ask(gateway, False).content == "hello"
        wait_until("it is noted", lambda: "kind='event odd\\n" in gateway.log())
    assert not any(line.startswith(_FORGED[:30]) for line in gateway.log().splitlines())
