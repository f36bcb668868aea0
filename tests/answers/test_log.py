"""What the log says of a turn: one line per event, `event key=value`, with the request's id on every line."""

import concurrent.futures
import re

import pytest

from tests.running import EACH_GENERATION, Gateway, Running, Simulator, read_stream, wait_until

_LINE = re.compile(
    r"(?P<time>\S+ \S+) (?P<level>[A-Z]+) \[\d+\] \[(?P<id>\S+)\] (?P<logger>app(\.\w+)+): (?P<message>.*)"
)
# An event, then pairs; free text has no spaces before its key and stands last.
_EVENT = re.compile(r"[a-z][a-z_]*( [a-z_]+=\S.*)?")


def lines_of(gateway: Gateway, request_id: str) -> list[str]:
    """Messages of the lines that bear the id, in order."""
    found = filter(None, map(_LINE.fullmatch, gateway.log().splitlines()))
    return [line["message"] for line in found if line["id"] == request_id]


@EACH_GENERATION
@pytest.mark.parametrize("stream", [True, False])
def test_one_id_is_on_every_line_of_an_answer_that_failed_twice(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(fail="http_429", fail_at="turn", fail_times=2, retry_after="600")
    request_id = f"followed-{stream}"
    body = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    response = gateway.chat(body, headers={"x-request-id": request_id}, stream=stream)
    if stream:
        assert read_stream(response).finish_reason == "stop"
    assert response.status_code == 200 and response.headers["x-request-id"] == request_id
    wait_until("the end is logged", lambda: any("end=stop" in line for line in lines_of(gateway, request_id)))
    events = [line.split()[0] for line in lines_of(gateway, request_id)]
    assert events == ["account_cooldown", "attempt_failed", "account_cooldown", "attempt_failed", "turn"]
    end = lines_of(gateway, request_id)[-1]
    assert "attempts=3" in end and f"model={gateway.model}" in end


def test_the_ids_of_requests_that_run_at_the_same_time_are_kept_apart(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(gate="both", gate_after=0)

    def ask(request_id: str) -> int:
        body = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}]}
        return gateway.chat(body, headers={"x-request-id": request_id}).status_code

    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = [pool.submit(ask, f"apart-{number}") for number in range(2)]
        simulator.wait("open_streams", equals=2)
        simulator.open_gate("both")
        assert [result.result() for result in results] == [200, 200]
    for number in range(2):
        wait_until("it is logged", lambda number=number: lines_of(gateway, f"apart-{number}"))
        assert [line.split()[0] for line in lines_of(gateway, f"apart-{number}")] == ["turn"]


def test_every_line_of_the_log_is_an_event_with_pairs(running: Running, simulator: Simulator) -> None:
    """A start, an answer, a refusal, a failure, an account that is rejected, a stop."""
    with running.gateway(simulator.url) as gateway:
        gateway.say("hello")
        gateway.say("hello", "a-conversation")
        gateway.say("hello", model="no-such-model")
        simulator.knobs(fail="token_invalid")
        gateway.say("hello")
        simulator.knobs(fail="")
        simulator.script(b'data: {"event":"odd one"}\n\ndata: {"event":"all_done"}\n\n', match="/completion/stream")
        gateway.say("hello")
    lines = [line for line in gateway.log().splitlines() if " app." in line]
    assert len(lines) > 5
    assert [
        line for line in lines if not (found := _LINE.fullmatch(line)) or not _EVENT.fullmatch(found["message"])
    ] == []
