"""What is tried behind each server: streams, keys, clients that leave, long answers, reloads."""

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests

from tests.hosts.site import KEY, Site

FIELDS = ("stream", "delay", "key", "leaves a stream", "leaves a whole answer", "whole", "reload", "afterwards")

_TOKENS = 8
# A client that left is not waited for any longer. Seconds.
_NEVER_S = 40.0
# How long the answers of the columns take in all, and between two tokens. Seconds.
_WHOLE_S, _WHOLE_STEP_S = 70, 10
_RELOAD_TOKENS, _RELOAD_STEP_S = 12, 1


def exercise(site: Site, reload: Callable[[], None]) -> tuple[dict[str, str], list[str]]:
    """What was seen, by FIELDS, and what is wrong in it."""
    seen: dict[str, str] = {}
    faults: list[str] = []
    _until_ready(site)
    pieces, delay_s = _stream(site)
    seen["stream"], seen["delay"] = f"{pieces} of {_TOKENS}", f"{delay_s * 1000:.0f} ms"
    seen["key"] = _keys(site)
    seen["leaves a stream"] = _leave(site, stream=True)
    seen["leaves a whole answer"] = _leave(site, stream=False)
    seen["whole"] = _whole(site)
    seen["reload"] = _reload(site, reload)
    site.wait_until_listening(site.port)
    seen["afterwards"] = "answers" if _say(site, "hello").ok else "does not answer"
    if pieces < _TOKENS:
        faults.append("the answer did not arrive in its pieces")
    if "looks complete" in seen["reload"]:
        faults.append("an answer that was cut looks complete")
    if seen["key"] != "arrives":
        faults.append("the API key does not arrive")
    return seen, faults


def _ask(site: Site, prompt: str, *, stream: bool, key: str = KEY, timeout: float = 200) -> requests.Response:
    body: dict[str, Any] = {"model": "k2", "stream": stream, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{site.url}/v1/chat/completions"
    return requests.post(url, json=body, headers=headers, stream=stream, timeout=timeout)


def _say(site: Site, prompt: str) -> requests.Response:
    return _ask(site, prompt, stream=False)


def _tokens(count: int) -> str:
    """A text that the simulator writes in so many pieces: of four characters each."""
    return "".join(f"w{number:02} " for number in range(count)).strip()


def _prompt(text: str, **wishes: object) -> str:
    words = {"say": text, **wishes}
    return f"[[sim {' '.join(f'{name}={json.dumps(value)}' for name, value in words.items())}]]"


def _until_ready(site: Site) -> None:
    """Some servers load the application at the first request."""
    response = requests.get(f"{site.url}/healthz", timeout=60)
    assert response.ok, f"GET /healthz: {response.status_code} {response.text[:300]}"


def _events(response: requests.Response) -> Iterator[str]:
    for line in response.iter_lines(chunk_size=1):
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode()


def _text(event: str) -> str:
    choices = json.loads(event).get("choices") if event != "[DONE]" else None
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _stream(site: Site) -> tuple[int, float]:
    """How many pieces arrived one by one, and how late they were: the median of what an interval between two of them
    was longer or shorter than the one in which Kimi wrote them."""
    step_s = 0.3
    times = []
    whole = ""
    with _ask(site, _prompt(_tokens(_TOKENS), delay_s=step_s), stream=True) as response:
        assert response.ok, f"{response.status_code} {response.text[:300]}"
        for event in _events(response):
            if text := _text(event):
                whole += text
                times.append(time.monotonic())
    assert whole == _tokens(_TOKENS), f"another text: {whole!r}"
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    apart = 1 + sum(gap > step_s / 2 for gap in gaps)
    return min(apart, _TOKENS), statistics.median(abs(gap - step_s) for gap in gaps)


def _keys(site: Site) -> str:
    wrong = _ask(site, "hello", stream=False, key="sk-wrong").status_code
    right = _say(site, "hello").status_code
    return "arrives" if (wrong, right) == (401, 200) else f"wrong {wrong}, right {right}"


def _leave(site: Site, *, stream: bool) -> str:
    """How long Kimi goes on writing."""
    site.simulator.wait("open_streams", equals=0, timeout_s=60)
    prompt = _prompt(_tokens(60), delay_s=1)
    if stream:
        response = _ask(site, prompt, stream=True)
        next(event for event in _events(response) if _text(event))
        response.close()
    else:
        with contextlib.suppress(requests.Timeout):
            _ask(site, prompt, stream=False, timeout=2)
    left_at = time.monotonic()
    try:
        site.simulator.wait("open_streams", equals=0, timeout_s=_NEVER_S)
    except AssertionError:
        # The answer ends by itself.
        site.simulator.wait("open_streams", equals=0, timeout_s=60)
        return "never"
    return f"{time.monotonic() - left_at:.1f} s"


def _whole(site: Site) -> str:
    text = _tokens(1 + _WHOLE_S // _WHOLE_STEP_S)
    try:
        response = _say(site, _prompt(text, delay_s=_WHOLE_STEP_S))
    except requests.RequestException as error:
        return f"lost ({type(error).__name__})"
    if not response.ok:
        return str(response.status_code)
    content = response.json()["choices"][0]["message"]["content"]
    return "exact" if content == text else "another text"


def _reload(site: Site, reload: Callable[[], None]) -> str:
    """What a client sees of an answer in the middle of which the server reloads."""
    text = _tokens(_RELOAD_TOKENS)
    whole, last = "", ""
    try:
        with _ask(site, _prompt(text, delay_s=_RELOAD_STEP_S), stream=True) as response:
            for event in _events(response):
                last = event
                if event != "[DONE]" and "error" in json.loads(event):
                    return f"error {json.loads(event)['error']['code']}"
                before = whole
                whole += _text(event)
                if whole != before and whole.count(" ") == 2:
                    reload()
    except requests.RequestException:
        return "cut, seen as cut"
    if last == "[DONE]":
        return "whole" if whole == text else "another text"
    return "cut, looks complete"
