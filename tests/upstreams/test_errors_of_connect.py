"""What Connect's codes and reasons mean, wherever Kimi puts them."""

import json
from typing import Any

import pytest

from app.errors import AccountRejected, UpstreamError
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.connect_frames import AnswerDecoder
from app.upstreams.kimi.http import Reply
from tests.running import Gateway, Simulator, frame
from tests.running.decoding import ACCOUNT
from tests.running.each_case import check_each

# Connect's code, reason → status and code of ours, where nothing was sent yet (kimi-protocol.md 7, E15–E26).
CODES = [
    ("unauthenticated", "REASON_INVALID_AUTH_TOKEN", 503, "account_token_rejected"),
    ("unauthenticated", "REASON_SECURITY_CHECK", 503, "account_token_rejected"),
    ("permission_denied", "", 403, "forbidden"),
    ("resource_exhausted", "", 429, "rate_limit_exceeded"),
    ("resource_exhausted", "REASON_SERVER_OVERLOADED_FOR_FREE_USER", 429, "rate_limit_exceeded"),
    ("resource_exhausted", "REASON_PLAN_QUOTA_USED_UP", 429, "insufficient_quota"),
    ("not_found", "", 404, "not_found"),
    ("invalid_argument", "", 400, "request_refused"),
    ("failed_precondition", "", 400, "request_refused"),
    ("out_of_range", "", 400, "request_refused"),
    ("already_exists", "", 409, "conflict"),
    ("aborted", "", 409, "conflict"),
    ("unimplemented", "", 502, "upstream_error"),
    ("unavailable", "", 503, "overloaded"),
    ("deadline_exceeded", "", 504, "timeout"),
    ("canceled", "", 502, "upstream_error"),
    ("internal", "", 502, "upstream_error"),
    ("unknown", "", 502, "upstream_error"),
    ("data_loss", "", 502, "upstream_error"),
    ("MODEL_RATE_LIMIT", "", 429, "rate_limit_exceeded"),
    ("RATE_LIMITED", "", 429, "rate_limit_exceeded"),
    ("INTERNAL_ERROR", "", 502, "upstream_error"),
    ("something_new", "REASON_NOBODY_KNOWS", 502, "upstream_error"),
]

PLACES = ("http", "end_error", "frame_error", "error_after_done")


def failing_stream(place: str, error: dict[str, Any]) -> bytes:
    heartbeat, failure = frame({"heartbeat": {}}), {"error": error}
    match place:
        case "end_error":
            return heartbeat + frame(failure, flags=2)
        case "frame_error":
            return heartbeat + frame(failure) + frame({}, flags=2)
    return heartbeat + frame({"eventOffset": 1, "done": {}}) + frame(failure, flags=2)


def error_of(code: str, reason: str, text: str) -> dict[str, Any]:
    """The human text stands beside the code or, where there is none, in the details."""
    error: dict[str, Any] = {"code": code}
    if reason:
        error["details"] = [{"debug": {"reason": reason, "localizedMessage": {"message": "said there"}}}]
    if text:
        error["message"] = text
    return error


@pytest.mark.parametrize("place", PLACES)
def test_an_error_means_what_its_code_says(place: str) -> None:
    cases = [(code, text) for code in CODES for text in ("", "so sorry")]
    check_each(((f"{code[0]} {code[1]} {text}", (*code, place, text)) for code, text in cases), _means)


def _means(case: tuple[str, str, int, str, str, str]) -> None:
    code, reason, status, our_code, place, text = case
    found = found_at(place, error_of(code, reason, text))
    assert (found.status, found.code) == (status, our_code)
    assert not text or text in found.message
    assert text or not reason or "said there" in found.message


def debug(**fields: object) -> dict[str, Any]:
    return {"details": [{"debug": fields}]}


# kimi-protocol-2.md 5.7 and 8: what it is answered whatever the code says.
OF_AUTUMN_2026: list[tuple[str, dict[str, Any], int, str]] = [
    ("N1", {"code": "resource_exhausted", **debug(paywall={"title": "Upgrade"})}, 402, "insufficient_quota"),
    ("N1 alone", debug(paywall={"title": "Upgrade"}), 402, "insufficient_quota"),
    ("P8", {"code": "permission_denied", **debug(needUpgrade=True)}, 402, "insufficient_quota"),
    ("N2", {"code": "invalid_argument", **debug(reason="REASON_CHAT_MESSAGE_NOT_FOUND")}, 404, "not_found"),
    ("N3", {"code": "resource_exhausted", "message": "upstream error"}, 503, "model_unavailable"),
    ("N4 expired", {"code": "unauthenticated", "message": "token is expired"}, 503, "account_token_rejected"),
    ("N4 invalid", {"code": "unauthenticated", "message": "invalid user token"}, 503, "account_token_rejected"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("error", "status", "our_code"), [row[1:] for row in OF_AUTUMN_2026], ids=[row[0] for row in OF_AUTUMN_2026]
)
def test_a_signal_of_autumn_2026_means_the_same_everywhere(
    error: dict[str, Any], status: int, our_code: str, place: str
) -> None:
    found = found_at(place, error)
    assert (found.status, found.code) == (status, our_code)


@pytest.mark.parametrize("text", ["token is expired", "invalid user token", ""])
@pytest.mark.parametrize("media_type", ["application/json", "text/plain"])
def test_a_401_rejects_the_token_whatever_it_says(media_type: str, text: str) -> None:
    """N4, as E2."""
    body = json.dumps({"message": text}) if media_type == "application/json" else text
    found = kimi_errors.refusal(Reply(401, media_type, {}, body.encode()), ACCOUNT, "https://kimi.test")
    assert isinstance(found, AccountRejected) and (found.status, found.code) == (503, "account_token_rejected")


def found_at(place: str, error: dict[str, Any]) -> UpstreamError:
    """Instead of a stream, in the end-of-stream envelope, in a frame, or after `done`."""
    if place == "http":
        # The status says less than the code.
        reply = Reply(400, "application/json", {}, json.dumps(error).encode())
        return kimi_errors.refusal(reply, ACCOUNT, "https://kimi.test")
    with pytest.raises(UpstreamError) as caught:
        list(AnswerDecoder(ACCOUNT, "SCENARIO_K2D5", None).decode([failing_stream(place, error)]))
    return caught.value


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_gets_the_status_of_the_error_wherever_it_stands(
    blunt: Gateway, simulator: Simulator, stream: bool
) -> None:
    for number, (code, reason, status, our_code) in enumerate(CODES):
        place, error = PLACES[(number + stream) % len(PLACES)], error_of(code, reason, "so sorry")
        # The next form of the model is refused, too.
        times = 2 if code == "invalid_argument" else 1
        if place == "http":
            headers = {"Content-Type": "application/json"}
            simulator.script(json.dumps(error).encode(), status=400, headers=headers, times=times)
        else:
            simulator.script(failing_stream(place, error), times=times)
        blunt.tables.forget_what_accounts_did()
        response = blunt.say("hello", stream=stream)
        said = response.json()["error"]
        assert (response.status_code, said["code"]) == (status, our_code), (code, place, said)
