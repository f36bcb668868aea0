"""Who asks, and judges every answer by itself: exact, or plainly not an answer.

Knows OpenAI's chat completions, from outside. Must never know what is being broken meanwhile.
"""

import json
import threading
import time
from dataclasses import replace
from typing import Any

import requests

from tests.chaos.ledger import Conversation, Ledger, Seen
from tests.chaos.plan import CONNECT_MODELS, SSE_MODELS, Question, Questions
from tests.chaos.site import KEYS, Gateway

# Longer than any answer may take, together with the restart of a whole gateway.
_HANGS_AFTER_S = 120.0
_ERRORS = {400, 401, 402, 403, 404, 409, 429, 502, 503, 504}
_MOST_CONVERSATIONS = 4
_MOST_REPETITIONS = 5


class Chatter:
    """The HTTP of one turn, and what is wrong with it."""

    def __init__(self, gateways: list[Gateway], ledger: Ledger) -> None:
        self.gateways = gateways
        self.ledger = ledger

    def ask(
        self,
        gateway: Gateway,
        key: str,
        question: Question,
        model: str,
        conversation: Conversation | None = None,
        idempotency_key: str | None = None,
    ) -> Seen:
        """One turn; what is wrong with its answer goes into the ledger."""
        history = conversation.history if conversation is not None and conversation.sends_history else []
        messages = [m for asked, told in history for m in (_message("user", asked), _message("assistant", told))]
        body = {
            "model": model,
            "messages": [*messages, _message("user", question.text)],
            "stream": question.stream,
        }
        headers = {"Authorization": f"Bearer {key}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        name = conversation.id if conversation is not None and conversation.is_named else None
        url = f"{gateway.url}/v1/chat/completions" + (f"/{name}" if name else "")
        self.ledger.expect(question.mark, conversation)
        began = time.monotonic()
        seen = Seen(question.mark, "cut", began=began)
        try:
            with requests.post(
                url, json=body, headers=headers, stream=True, timeout=(_HANGS_AFTER_S, _HANGS_AFTER_S)
            ) as response:
                seen.rebuilt = response.headers.get("x-conversation-rebuilt")
                seen.how = response.headers.get("x-conversation")
                seen.status = response.status_code
                if response.status_code != 200:
                    self._read_error(seen, response)
                elif question.stream:
                    self._read_stream(seen, response, question)
                else:
                    self._read_whole(seen, response)
        except requests.Timeout:
            self.ledger.wrong(
                f"{question.mark}: nothing came for {_HANGS_AFTER_S:g} s ({question.fault or 'no fault'})"
            )
        except requests.RequestException:
            pass  # a killed worker: no end was seen, unless it was seen before
        seen.ended = time.monotonic()
        self._judge(seen, question)
        return seen

    def _read_error(self, seen: Seen, response: requests.Response) -> None:
        error = response.json()["error"]
        seen.outcome, seen.code = "refused", str(error["code"])

    def _read_whole(self, seen: Seen, response: requests.Response) -> None:
        choice = response.json()["choices"][0]
        seen.text = choice["message"]["content"] or ""
        self._finish(seen, choice["finish_reason"])

    def _read_stream(self, seen: Seen, response: requests.Response, question: Question) -> None:
        events = 0
        for line in response.iter_lines(chunk_size=None):
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]":
                return
            events += 1
            if question.leaves_after is not None and events > question.leaves_after and seen.outcome == "cut":
                seen.outcome = "left"
                return
            chunk = json.loads(line[6:])
            if "error" in chunk:
                if seen.outcome == "whole":
                    self.ledger.wrong(f"{seen.mark}: an error after the finish")
                seen.outcome, seen.code = "failed", str(chunk["error"]["code"])
                continue
            for choice in chunk["choices"]:
                seen.text += choice["delta"].get("content") or ""
                if choice["finish_reason"]:
                    self._finish(seen, choice["finish_reason"])

    def _finish(self, seen: Seen, reason: str) -> None:
        match reason:
            case "stop":
                seen.outcome = "whole"
            case "content_filter":
                seen.outcome = "moderated"
            case "length":
                seen.outcome = "limited"
            case _:
                self.ledger.wrong(f"{seen.mark}: the finish reason {reason!r}, which nothing has caused")

    def _judge(self, seen: Seen, question: Question) -> None:
        wrong, mark = self.ledger.wrong, seen.mark
        fault = question.fault or "no fault"
        if seen.outcome == "whole" and question.answer and seen.text != question.answer:
            wrong(
                f"{mark}: a whole answer that is not the right one ({fault}): {seen.text!r} for {question.answer!r}"
            )
        if question.answer and not question.answer.startswith(seen.text):
            wrong(f"{mark}: text that Kimi did not say ({fault}): {seen.text!r} for {question.answer!r}")
        if seen.outcome == "moderated" and not question.may_be_moderated:
            wrong(f"{mark}: moderated, but not by Kimi ({fault})")
        # Kimi has cut it at its length limit, and would not go on: a mood had struck, or the chat was lost.
        if seen.outcome == "limited" and "length_after" not in question.text:
            wrong(f"{mark}: cut at a limit that Kimi did not have ({fault})")
        if seen.outcome == "refused" and seen.status not in _ERRORS or seen.code == "internal_error":
            wrong(f"{mark}: {seen.status} {seen.code} ({fault})")


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


class Client:
    """Somebody who asks until told to stop. ``kind``: stateless, new (sends what is new), history, or unnamed
    (history, without the name of a conversation)."""

    def __init__(self, number: int, seed: int, kind: str, chatter: Chatter, over: threading.Event) -> None:
        self.thread = threading.Thread(target=self._run, name=f"client-{number}", daemon=True)
        self._questions = Questions(seed, number, fault_share=0.35)
        self._dice = self._questions.random
        self._number = number
        self._kind = kind
        self._key = KEYS[number % len(KEYS)]
        self._other_key = KEYS[(number + 1) % len(KEYS)]
        self._chatter = chatter
        self._ledger = chatter.ledger
        self._over = over
        self._mine: list[Conversation] = []
        self._made = 0
        # Through both gateways in turn, beginning with either.
        self._turn = number // 2

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._step()
                self._over.wait(self._dice.expovariate(3.0))
        except Exception as e:  # noqa: BLE001  # the edge of the thread: whatever it is, the run has failed
            self._ledger.wrong(f"a client broke: {type(e).__name__}: {e}")

    def _step(self) -> None:
        if self._kind == "stateless":
            model = self._dice.choice((*SSE_MODELS, *CONNECT_MODELS))
            self._turn_of(None, model)
            return
        chance = self._dice.random()
        if not self._mine or chance < 0.08:
            self._begin()
        conversation = self._dice.choice(self._mine)
        if chance > 0.95:
            self._intrude()
        elif chance > 0.85 and self._kind == "new":
            self._two_at_once(conversation)
        elif chance > 0.85 and self._kind == "unnamed" and conversation.history:
            self._edit(conversation)
        else:
            self._turn_of(conversation, conversation.model)

    def _gateway(self) -> Gateway:
        self._turn += 1
        return self._chatter.gateways[self._turn % len(self._chatter.gateways)]

    def _begin(self) -> None:
        self._made += 1
        if len(self._mine) >= _MOST_CONVERSATIONS:
            oldest = self._mine.pop(0)
            if oldest.is_named:
                self._delete(oldest)
        model = self._dice.choice((*SSE_MODELS, *CONNECT_MODELS))
        name = f"chaos-{self._number}-{self._made}"
        conversation = Conversation(
            name,
            self._key,
            model,
            sends_history=self._kind in ("history", "unnamed"),
            is_named=self._kind != "unnamed",
        )
        self._mine.append(conversation)
        self._ledger.conversations.append(conversation)

    def _turn_of(self, conversation: Conversation | None, model: str) -> None:
        generation = "connect" if model.startswith("kimi-") else "sse"
        question = self._questions.next(generation)
        if self._dice.random() < 0.15:
            seen = self._ask_once(question, model, conversation)
        else:
            seen = self._chatter.ask(self._gateway(), self._key, question, model, conversation)
        self._note(seen, question, conversation)

    def _note(self, seen: Seen, question: Question, conversation: Conversation | None) -> None:
        self._ledger.note(seen, conversation)
        if conversation is not None and seen.outcome == "whole":
            conversation.history.append((question.text, question.answer))
        if seen.status == 429:
            # Not as long as it is told to: an account may rest for minutes.
            self._over.wait(self._dice.uniform(0.5, 3.0))

    def _ask_once(self, question: Question, model: str, conversation: Conversation | None) -> Seen:
        """With an Idempotency-Key, and again until its end is seen."""

        def ask(question: Question) -> Seen:
            return self._chatter.ask(self._gateway(), self._key, question, model, conversation, question.mark)

        seen = first = ask(question)
        patient = replace(question, leaves_after=None)
        for _ in range(_MOST_REPETITIONS):
            if seen.outcome not in ("cut", "left") and seen.code != "first_request_failed":
                break
            self._ledger.count("repeated with an Idempotency-Key")
            seen = ask(patient)
        if seen.outcome == "whole" and self._dice.random() < 0.3:
            again = ask(patient)
            if again.outcome not in ("whole", "cut"):
                self._ledger.wrong(
                    f"{question.mark}: whole, then {again.status} {again.code} for its Idempotency-Key"
                )
        seen.began, seen.rebuilt = first.began, seen.rebuilt or first.rebuilt
        return seen

    def _edit(self, conversation: Conversation) -> None:
        """From a question on, all is to be said anew; what was said after it is another conversation's past."""
        del conversation.history[self._dice.randrange(len(conversation.history)) :]
        self._ledger.count("questions edited")
        self._turn_of(conversation, conversation.model)

    def _two_at_once(self, conversation: Conversation) -> None:
        """Two turns of one conversation at the same time, through both gateways."""
        questions = [self._questions.next(conversation.generation) for _ in range(2)]
        seen: list[tuple[Seen, Question]] = []

        def ask(gateway: Gateway, question: Question) -> None:
            seen.append((self._chatter.ask(gateway, self._key, question, conversation.model, conversation), question))

        threads = [threading.Thread(target=ask, args=(self._gateway(), question)) for question in questions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one, question in sorted(seen, key=lambda pair: pair[0].ended):
            self._note(one, question, conversation)
        self._ledger.count("two turns at once")

    def _intrude(self) -> None:
        """Tries to read and to delete what belongs to the other key."""
        others = [c for c in self._ledger.conversations if c.key == self._other_key and c.is_named]
        if not others:
            return
        conversation = self._dice.choice(others)
        for method in ("GET", "DELETE"):
            status = self._call(method, conversation, self._key)
            # 503: the database is away, which says nothing of the conversation.
            if status not in (404, 503, None):
                self._ledger.wrong(f"{method} of another key's conversation: {status}")
        self._ledger.count("looked at another key's conversation")

    def _delete(self, conversation: Conversation) -> None:
        status = self._call("DELETE", conversation, self._key)
        conversation.gone = True
        if status == 404 and conversation.history:
            self._ledger.wrong(f"{conversation.id}: it was there and is not known")
        elif status == 200:
            self._ledger.count("conversations deleted")
            for gateway in self._chatter.gateways:
                status = self._call("GET", conversation, self._key, gateway)
                if status == 200:
                    self._ledger.wrong(f"{conversation.id}: deleted, and still known")
                elif status not in (404, 503, None):
                    self._ledger.wrong(f"{conversation.id}: GET after DELETE was answered {status}")
        elif status not in (404, 409, 503, None):
            self._ledger.wrong(f"{conversation.id}: DELETE was answered {status}")

    def _call(self, method: str, conversation: Conversation, key: str, gateway: Gateway | None = None) -> int | None:
        """The status; None where the connection was cut."""
        url = f"{(gateway or self._gateway()).url}/v1/chat/completions/{conversation.id}"
        headers: dict[str, Any] = {"Authorization": f"Bearer {key}"}
        try:
            return requests.request(method, url, headers=headers, timeout=_HANGS_AFTER_S).status_code
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            return None
