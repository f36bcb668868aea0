"""The ids of responses, which say what a response belongs to: ``resp_<conversation>_<turn>``.

With ``store`` other than false, a response is a turn of a conversation that is kept. Its id is all that
``previous_response_id`` needs, so nothing else is stored, and a response itself cannot be fetched. The ids of its
items say the same, because the AI SDK refers to them in place of what was said. A turn that continues from an older
response has the next number all the same: numbers say in which order turns were made, and not what they follow. With
``store: false`` (Codex) nothing is kept.
"""

import re
from dataclasses import dataclass

from app.chat import Caller, EarlierTurn
from app.errors import InvalidRequest, UnknownConversation
from app.web.request_context import gateway, reply_id

_TURN = r"([A-Za-z0-9._:-]{1,128})_([1-9][0-9]{0,8})"
_RESPONSE_ID = re.compile(f"resp_{_TURN}")
_ITEM_ID = re.compile(f"(?:msg|rs|fc|ctc)_{_TURN}_[0-9]+")


@dataclass(frozen=True, slots=True)
class TurnId:
    """The place of a response in a conversation. The first turn is number 1; 0: the number is not known."""

    conversation_id: str
    number: int
    # What it follows, where that is not the turn before it.
    follows: EarlierTurn | None = None
    # The gateway has chosen the id, because the request named no conversation.
    opens_conversation: bool = False

    @property
    def name(self) -> str:
        """What the ids of the response and of its items have in common."""
        return f"{self.conversation_id}_{self.number}"


@dataclass(frozen=True, slots=True)
class Previous:
    """What a request continues from."""

    # None: its id cannot be one of ours.
    turn: TurnId | None
    # The field that names it, for errors.
    param: str

    @classmethod
    def of_response(cls, response_id: str) -> "Previous":
        return cls(_parse(_RESPONSE_ID, response_id), "previous_response_id")

    @classmethod
    def of_item(cls, item_id: str, param: str) -> "Previous":
        return cls(_parse(_ITEM_ID, item_id), param)


def conversation_of(response_id: str) -> str | None:
    """The conversation that a response belongs to; None where the id is not one of ours."""
    turn = _parse(_RESPONSE_ID, response_id)
    return turn.conversation_id if turn else None


def last_of(found: list[Previous]) -> Previous | None:
    """What a request continues from, of all that it names. Raises InvalidRequest where two do not fit together."""
    for one in found:
        if one.turn and found[-1].turn and one.turn.conversation_id != found[-1].turn.conversation_id:
            raise _mistake(one, "this belongs to another conversation than what comes after it")
    return found[-1] if found else None


def next_turn(
    previous: Previous | None, conversation_id: str | None, store: bool | None, who: Caller
) -> TurnId | None:
    """The turn that is asked for; None for a stateless request. Raises GatewayError."""
    if previous is not None:
        return _turn_after(previous, conversation_id, store, who)
    if conversation_id is None:
        return None if store is False else TurnId(reply_id("", who), 1, opens_conversation=True)
    if who.idempotency_key is not None:
        # If this is a repetition, its turn is over, and the conversation does not say which one it was.
        return TurnId(conversation_id, 0)
    try:
        return TurnId(conversation_id, gateway().find_conversation(who.owner, conversation_id).turns + 1)
    except UnknownConversation:
        return TurnId(conversation_id, 1)


def _turn_after(previous: Previous, conversation_id: str | None, store: bool | None, who: Caller) -> TurnId:
    unknown = UnknownConversation(
        f"{previous.param}: nothing with this id is known for this API key; only what was made with store: true is, "
        "and only for as long as its conversation is kept. To begin a conversation leave it out",
        code="previous_response_not_found",
        param=previous.param,
    )
    if previous.turn is None:
        raise unknown
    its_conversation, number = previous.turn.conversation_id, previous.turn.number
    if conversation_id not in (None, its_conversation):
        raise _mistake(previous, "this belongs to another conversation than the one that is named")
    if store is False:
        raise _mistake(
            previous, "a conversation that is kept can continue with store: true only, because its chat grows"
        )
    try:
        turns = gateway().find_conversation(who.owner, its_conversation).turns
    except UnknownConversation:
        raise unknown from None
    if number > turns:
        raise unknown
    # The repetition of a request that has been answered gets that answer, further down.
    if number < turns and who.idempotency_key is None:
        last = f"resp_{TurnId(its_conversation, turns).name}"
        return TurnId(its_conversation, turns + 1, EarlierTurn(number, previous.param, last))
    return TurnId(its_conversation, number + 1)


def _parse(pattern: re.Pattern[str], its_id: str) -> TurnId | None:
    found = pattern.fullmatch(its_id)
    return TurnId(found[1], int(found[2])) if found else None


def _mistake(previous: Previous, message: str) -> InvalidRequest:
    return InvalidRequest(f"{previous.param}: {message}", code="invalid_previous_response_id", param=previous.param)
