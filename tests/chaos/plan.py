"""What is asked, and what is to go wrong with it: all drawn from a seed. Must never know who asks, or how.

A prompt carries a marker that no other has (U…Q) and tells the simulator what to answer: a text with a marker of its
own (A…Q). So whoever sees a text knows whose it is.
"""

import json
import random
import re
from dataclasses import dataclass

from tests.running import CANARY

USER_MARK = re.compile(r"U\d{4}-\d{5}Q")

# Of these the gateway has refresh tokens; a rejected access token takes the others away for ever, as it should.
RENEWABLE = ("dave", "erin")
ACCOUNTS = ("alice", "bob", "carol", *RENEWABLE)

# What each generation serves; k2 is served by both.
SSE_MODELS = ("k2", "k1.5", "k1.5-thinking")
CONNECT_MODELS = ("kimi-k2.6", "kimi-k2.5", "kimi-k2.6-thinking")

_WORDS = (
    "the",
    "quick",
    "fox",
    "快",
    "jumps",
    "🦊",
    "over",
    "ünïcode",
    "and",
    "a",
    "lazy",
    "dog",
    "in",
    "the",
    "rain",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """``words`` tell the simulator; ``once``: a further attempt of the turn meets no fault."""

    name: str
    words: str
    weight: int
    once: bool


def _faults(once: str = "", always: str = "", weight: int = 4, **words: object) -> list[Fault]:
    told = " ".join(f"{name}={value}" for name, value in words.items())
    return [
        *(Fault(name, f"fail={name} fail_times=1 {told}", weight, True) for name in once.split()),
        *(Fault(name, f"fail={name} {told}", weight, False) for name in always.split()),
    ]


# What strikes one account rests it, for seconds or for many minutes: the latter strikes one of them only, so that the
# others go on being tried.
_LATE: list[Fault] = [
    Fault("reset", "fail=drop fail_after=3 end=reset", 6, False),
    Fault("cut anywhere", "end_after_bytes={bytes}", 6, False),
    Fault("stall", "stall_after=2", 2, False),
]
_BOTH = [
    *_faults("http_500 http_502 http_503 http_504 http_408 error_unknown html_200 json_200 empty_close"),
    *_faults("not_found", weight=8),
    *_faults("http_429", weight=2, retry_after=2),
    *_faults("http_429 stream_pushing", weight=1),
    *_faults("forbidden_html account_abnormal", weight=3, fail_for="carol"),
    *_faults("token_invalid", weight=8, fail_for=",".join(RENEWABLE)),
    *_faults(always="done_only drop", weight=6, fail_after=2),
    *_faults(always="too_long bad_request model_422 moderated moderated_before http_500", weight=3),
    *_faults(always="http_503", weight=2, retry_after=1),
    *_faults("silent_headers silent_body redirect", weight=1),
    *_LATE,
]
FAULTS = {
    "sse": [
        *_BOTH,
        *_faults("overloaded forbidden_chat empty"),
        *_faults("anonymous_quota", weight=2, fail_for=RENEWABLE[0]),
    ],
    "connect": [
        *_BOTH,
        *_faults("exception top_exception"),
        *_faults("exception", weight=4, fail_after=2),
        *_faults("end_error overloaded frame_error error_after_done empty", weight=1),
        *_faults("forbidden_chat membership", weight=3, fail_for="carol"),
        *_faults("quota", weight=3, fail_for="carol"),
    ],
}
_SHAPES = {
    "sse": [
        "cut=random:{bytes}",
        "unknown=1",
        "comments=1 ping_s=0.1",
        "empty_text=1",
        "length_after=6",
        "done=twice",
    ],
    "connect": [
        "cut=random:{bytes}",
        "unknown=1",
        "comments=1",
        "gzip_frames=1",
        "completion=whole",
        "text_blocks=3",
    ],
}


@dataclass(frozen=True, slots=True)
class Question:
    """One turn: ``text`` is what the user says, ``answer`` what Kimi must be heard to say."""

    mark: str
    text: str
    answer: str
    fault: str
    # Read so many events and then leave.
    leaves_after: int | None
    stream: bool

    @property
    def may_be_moderated(self) -> bool:
        return self.fault.startswith("moderated")


class Questions:
    """The questions of one client, in order."""

    def __init__(self, seed: int, client: int, fault_share: float) -> None:
        self.random = random.Random(f"{seed}/{client}")
        self._client = client
        self._count = 0
        self._fault_share = fault_share

    def next(self, generation: str, *, calm: bool = False) -> Question:
        """``calm``: nothing goes wrong with it on purpose, and nobody leaves."""
        dice = self.random
        self._count += 1
        number = f"{self._client:04}-{self._count:05}Q"
        mark = f"U{number}"
        answer = " ".join([f"A{number}", *dice.choices(_WORDS, k=dice.randint(3, 60)), f"A{number}"])
        words = [f"say={json.dumps(answer)} delay_s={dice.choice((0, 0.002, 0.01, 0.03))}"]
        fault = ""
        if not calm and dice.random() < self._fault_share:
            chosen = dice.choices(FAULTS[generation], [f.weight for f in FAULTS[generation]])[0]
            fault = chosen.name
            words.append(chosen.words)
        elif not calm and dice.random() < 0.4:
            words.append(dice.choice(_SHAPES[generation]))
        told = " ".join(words).replace("{bytes}", str(dice.randint(1, 1500)))
        leaves_after = dice.randint(0, 8) if not calm and dice.random() < 0.06 else None
        stream = leaves_after is not None or dice.random() < 0.5
        return Question(mark, f"{mark} {CANARY} [[sim reset {told}]]", answer, fault, leaves_after, stream)

    def recall(self) -> Question:
        """Asks what the user has said in this chat; its answer is for the verdict to read."""
        self._count += 1
        mark = f"U{self._client:04}-{self._count:05}Q"
        return Question(mark, f"{mark} What did I say? [[sim reset]]", "", "", None, False)
