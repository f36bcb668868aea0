"""Secrets that are planted, and searched for wherever the gateway writes. ``running`` searches after all tests."""

from tests.running import CANARY, Gateway, Running, Simulator, ask, mint

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
