"""What an API key may use: models, and tokens a day."""

from collections.abc import Callable

import pytest

from tests.running import BOTH_DATABASES, Gateway, Share, Simulator, wait_until
from tests.running.commands import run_flask


@pytest.fixture
def gateway(shared_gateway: Share, database: str) -> Gateway:
    return shared_gateway(GATEWAY_API_KEYS="owner=sk-of-the-owner", LEASE_S="1", MODEL_ALIASES="gpt-4o=k1.5")


def new_key(gateway: Gateway, name: str, *options: str) -> dict[str, str]:
    """The headers of a new key, once it is known."""
    done = run_flask("keys", "add", name, *options, DATABASE_URL=gateway.database.url)
    assert done.code == 0, done.errors
    headers = {"Authorization": f"Bearer {done.output.strip()}"}
    wait_until("the key is known", lambda: gateway.get("/v1/models", headers=headers).ok)
    return headers


def asker(gateway: Gateway, headers: dict[str, str]) -> Callable[[str], tuple[int, dict[str, object]]]:
    def ask(model: str) -> tuple[int, dict[str, object]]:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        response = gateway.post("/v1/chat/completions", json=body, headers=headers)
        return response.status_code, {**response.json().get("error", {}), "headers": response.headers}

    return ask


@BOTH_DATABASES
def test_a_key_uses_its_models_only_also_by_their_other_names(gateway: Gateway, simulator: Simulator) -> None:
    headers = new_key(gateway, "child", "--models", "k2*,moonshot-v1")
    ask = asker(gateway, headers)
    assert ask("k2")[0] == ask("k2-nosearch")[0] == 200
    for model in ("k1.5", "gpt-4o"):
        status, error = ask(model)
        assert (status, error["code"], error["param"]) == (403, "model_not_allowed", "model")
        assert error["message"] == "this API key may not use the model 'k1.5'; it may use k2*, moonshot-v1"
    assert ask("nothing")[1]["code"] == "model_not_found"
    ids = [model["id"] for model in gateway.get("/v1/models", headers=headers).json()["data"]]
    assert ids and all(id_.startswith("k2") for id_ in ids)
    assert gateway.get("/v1/models/k2", headers=headers).json()["id"] == "k2"
    for model in ("k1.5", "gpt-4o"):
        response = gateway.get(f"/v1/models/{model}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")
    assert "models k2*,moonshot-v1" in run_flask("keys", "list", DATABASE_URL=gateway.database.url).output


@BOTH_DATABASES
def test_a_key_that_has_used_its_tokens_waits_for_the_next_day(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four five six seven eight nine ten")
    headers = new_key(gateway, "guest", "--tokens-per-day", "15")
    ask = asker(gateway, headers)
    assert ask("k2")[0] == 200
    wait_until("its tokens are counted", lambda: ask("k2")[0] == 429)
    status, error = ask("k2")
    assert (status, error["code"]) == (429, "tokens_per_day")
    assert "15 tokens a day" in str(error["message"]) and "00:00 UTC" in str(error["message"])
    assert 0 < int(error["headers"]["Retry-After"]) <= 86_400  # type: ignore[index]
    assert error["headers"]["x-should-retry"] == "false"  # type: ignore[index]
    assert gateway.get("/v1/models", headers=headers).ok
    assert asker(gateway, {"Authorization": "Bearer sk-of-the-owner"})("k2")[0] == 200


def test_a_list_of_models_has_no_spaces(gateway: Gateway) -> None:
    done = run_flask("keys", "add", "spaces", "--models", "k2, k1.5", DATABASE_URL=gateway.database.url)
    assert done.code == 2 and "without spaces" in done.errors
