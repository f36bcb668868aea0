"""What the owner is told of, and in which words. Pure functions.

A message holds names of accounts and sentences of ours: no token, no text of a conversation, no word of Kimi's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.accounts.standings import ENDING, Kind, Language, Standing, named_sentence
from app.store import UnrecognisedRow

# A token that nothing renews, and that works for longer than this, needs nobody yet. Seconds.
_ENDS_SOON_S = 3 * 86_400.0
# What Kimi sends is as it was again after so long without anything unknown. Seconds.
_KNOWN_AFTER_S = 86_400.0
# Kinds of an account that can take a request now.
_CAN_ANSWER: frozenset[Kind] = frozenset({"serving", "busy", "ending"})
# Kinds that say nothing of whether an account needs its owner. (One that was paused or removed needs nobody, but it
# does not work again either.)
_UNCLEAR: frozenset[Kind] = frozenset({"cooling", "renewing"})


@dataclass(frozen=True, slots=True)
class Event:
    """``begun`` and ``over``: the names of its messages. ``after_s``: the owner is told when it has lasted so long.
    ``page``: of the console."""

    begun: str
    over: str
    after_s: float
    page: str


ACCOUNT = Event("account_needs_you", "account_works_again", 0.0, "/accounts")
NO_ACCOUNT = Event("no_account_answers", "accounts_answer_again", 300.0, "/")
UNKNOWN = Event("unknown_frames", "unknown_frames_ended", 0.0, "/health")
EVENTS: Mapping[str, Event] = {event.begun: event for event in (ACCOUNT, NO_ACCOUNT, UNKNOWN)}
TEST = "test"


@dataclass(frozen=True, slots=True)
class Message:
    """``event``: its name. ``account``: label, empty if it concerns none. ``url``: of a page of the console."""

    event: str
    account: str
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is so now. A name is that of the event, and the id of the account behind a space if it concerns one.

    ``on``: name → the sentence. ``over``: what of the rest is over in a way that the owner wants to hear of.
    ``unclear``: what stays as it was.
    """

    on: Mapping[str, str]
    over: Mapping[str, str]
    unclear: frozenset[str]


def conditions(
    standings: Sequence[Standing], unknown: Sequence[UnrecognisedRow], now: float, language: Language
) -> Conditions:
    """``standings``: of all accounts; those of their models do not count. ``now``: Unix seconds."""
    on: dict[str, str] = {}
    over: dict[str, str] = {}
    unclear: set[str] = set()
    whole = [standing for standing in standings if not standing.model]
    for standing in whole:
        name = f"{ACCOUNT.begun} {standing.account_id}"
        if _needs_owner(standing, now):
            on[name] = named_sentence(_without_others_words(standing, language), language)
        elif standing.kind in _CAN_ANSWER:
            over[name] = _say("works_again", language, label=standing.label)
        elif standing.kind in _UNCLEAR:
            unclear.add(name)
    wanted = [standing for standing in whole if standing.kind != "paused"]
    if any(standing.kind in _CAN_ANSWER for standing in wanted):
        over[NO_ACCOUNT.begun] = _say("answer_again", language)
    elif wanted:
        on[NO_ACCOUNT.begun] = _say("none_answers", language)
    recent = [row for row in unknown if row.last_seen_at > now - _KNOWN_AFTER_S]
    if any(not row.refused_form for row in recent):
        on[UNKNOWN.begun] = _say("unknown", language)
    else:
        over[UNKNOWN.begun] = _say("known", language)
    return Conditions(on, over, frozenset(unclear))


def test_text(language: Language) -> str:
    return _say("test", language)


def _needs_owner(standing: Standing, now: float) -> bool:
    if standing.tone == "bad":
        return True
    return standing.kind in ENDING and standing.until is not None and standing.until - now < _ENDS_SOON_S


def _without_others_words(standing: Standing, language: Language) -> Standing:
    """Why a renewal failed may be told in Kimi's words, which stay here."""
    if not standing.said or standing.kind == "sealed":
        return standing
    return replace(standing, said=_say("see_console", language))


def _say(key: str, language: Language, **values: str) -> str:
    return _SENTENCES[key][language].format(**values)


_SENTENCES: Mapping[str, Mapping[Language, str]] = {
    "works_again": {"en": "{label}: works again.", "zh": "{label}：恢复正常。"},
    "none_answers": {
        "en": "No Kimi account has been able to answer for five minutes.",
        "zh": "已经有五分钟没有任何 Kimi 账号可用。",
    },
    "answer_again": {"en": "Kimi accounts can answer again.", "zh": "Kimi 账号恢复可用。"},
    "unknown": {
        "en": "Kimi sends something that this gateway does not know: it may have changed its protocol.",
        "zh": "Kimi 发来了网关不认识的数据，可能改了协议。",
    },
    "known": {
        "en": "Kimi has sent nothing unknown for a day.",
        "zh": "一天以来，Kimi 没有再发来不认识的数据。",
    },
    "test": {"en": "A test: messages of the gateway arrive.", "zh": "测试：能收到网关的消息。"},
    "see_console": {"en": "the console says why", "zh": "原因见控制台"},
}
