"""The state of an account as a value, and its sentence: each row of the table."""

import re
import string
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.accounts.scheduling import FORBIDDEN, LIMITED, NEEDS_PLAN, NOT_RENEWED, NOT_SERVED
from app.accounts.standings import (
    ENDING,
    ROWS,
    UNUSABLE,
    Kind,
    Standing,
    Words,
    key_of,
    model_standing,
    named_sentence,
    sentence,
    standing_of,
)
from app.settings.credentials import Credential, parse_credentials
from app.store import TokenRow
from app.store.leases import BY_HAND, REJECTED, Cooldown
from app.upstreams.account import when
from tests.running import mint

UNTIL = time.time() + 780
SAID = "Kimi answers 401"


def credential(token: str) -> Credential:
    return parse_credentials(f"home={token}")[0]


ACCESS = credential(mint("alice", 780))
EXPIRED = credential(mint("alice", -60))
OPAQUE = credential("an-opaque-access-token")
REFRESH = credential(mint("alice", 7_776_000, "refresh"))
OPAQUE_REFRESH = credential("cpmt_an_opaque_refresh_token")
ENDED = credential(mint("alice", -60, "refresh"))


def row(c: Credential, **changes: Any) -> TokenRow:
    fresh = TokenRow(c.id, c.source, 1, "an-access-token", c.refresh_token, UNTIL, None, False, "", 0.0)
    return replace(fresh, **changes)


def cooldown(cause: str) -> Cooldown:
    return Cooldown(UNTIL, 1, cause)


# A standing per row, made of what the gateway knows, where it makes it.
CASES: dict[tuple[Kind, str], Standing] = {
    ("serving", "renewable"): standing_of(OPAQUE_REFRESH, row(OPAQUE_REFRESH)),
    ("serving", "login"): standing_of(REFRESH, row(REFRESH)),
    ("serving", "first"): standing_of(REFRESH, row(REFRESH, access_token=None, expires_at=None)),
    ("serving", "timeless"): standing_of(OPAQUE, None),
    ("serving", "retrying"): standing_of(REFRESH, row(REFRESH, last_error=SAID)),
    ("busy", ""): Standing("busy", "acc_1", "home"),
    ("cooling", ""): standing_of(REFRESH, row(REFRESH), cooldown("")),
    ("cooling", "by hand"): standing_of(REFRESH, row(REFRESH), cooldown(BY_HAND)),
    ("cooling", "limited"): standing_of(REFRESH, row(REFRESH), cooldown(LIMITED)),
    ("cooling", "forbidden"): standing_of(REFRESH, row(REFRESH), cooldown(FORBIDDEN)),
    ("cooling", "renewal"): standing_of(REFRESH, row(REFRESH), cooldown(NOT_RENEWED)),
    ("cooling", "/model"): model_standing(REFRESH, "k2", cooldown("")),
    ("cooling", "limited/model"): model_standing(REFRESH, "k2", cooldown(LIMITED)),
    ("cooling", "needs a plan/model"): model_standing(REFRESH, "k2", cooldown(NEEDS_PLAN)),
    ("cooling", "not served/model"): model_standing(REFRESH, "k2", cooldown(NOT_SERVED)),
    ("paused", ""): Standing("paused", "acc_1", "home", since=UNTIL),
    ("ending", ""): standing_of(ACCESS, None),
    ("ending", "refused"): standing_of(REFRESH, row(REFRESH, revoked=True, last_error=SAID)),
    ("ending", "ended"): standing_of(ENDED, row(ENDED)),
    ("renewing", ""): standing_of(REFRESH, row(REFRESH, access_token=None, last_error=SAID)),
    ("needs_login", "expired"): standing_of(EXPIRED, None),
    ("needs_login", "refused"): standing_of(REFRESH, row(REFRESH, access_token=None, revoked=True, last_error=SAID)),
    ("needs_login", "rejected"): standing_of(ACCESS, None, cooldown(REJECTED)),
    ("needs_login", "ended"): standing_of(ENDED, row(ENDED, access_token=None)),
    ("sealed", ""): standing_of(REFRESH, row(REFRESH, access_token=None), None, "another secret"),
}


def test_every_row_has_a_case() -> None:
    assert set(CASES) == set(ROWS)


def rows_without(holds: Callable[[tuple[Kind, str]], object]) -> list[tuple[Kind, str]]:
    """The rows for which something does not hold."""
    return [key for key in ROWS if not holds(key)]


def test_a_state_gets_its_sentence_in_both_languages() -> None:
    def holds(key: tuple[Kind, str]) -> bool:
        standing = CASES[key]
        english, chinese = sentence(standing), sentence(standing, "zh")
        return (
            key_of(standing) == key
            and english.endswith(".")
            and chinese.endswith("。")
            and not re.search(r"[{}]|  |\(\)|（）|None", english + chinese)
            and re.search("[\u4e00-\u9fff]", chinese) is not None
            and re.search("[\u4e00-\u9fff]", english) is None
            and all(said in english and said in chinese for said in (standing.said, standing.model))
        )

    assert rows_without(holds) == []


def test_both_languages_say_the_same_values() -> None:
    def names(words: Words) -> set[str]:
        fields = string.Formatter().parse(words.state + words.advice)
        return {name for _, name, _, _ in fields if name is not None}

    assert rows_without(lambda key: names(ROWS[key].en) == names(ROWS[key].zh)) == []


def test_what_a_person_must_do_has_advice() -> None:
    def has_advice(key: tuple[Kind, str]) -> bool:
        row = ROWS[key]
        return bool(row.en.advice and row.zh.advice) or not (row.tone == "bad" or key[0] in ENDING)

    assert rows_without(has_advice) == []
    assert rows_without(lambda key: key[0] not in UNUSABLE or ROWS[key].tone == "bad") == []


def test_a_sentence_names_the_account_and_the_time() -> None:
    limited = CASES["cooling", "limited"]
    said = f"home: Kimi limited this account until {when(UNTIL)}. After that it is used again by itself."
    assert named_sentence(limited) == said
    assert named_sentence(limited, "zh").startswith(f"home：Kimi 限制了此账号的使用，到 {when(UNTIL)} 为止")


def test_a_cause_without_a_row_gets_that_of_its_kind() -> None:
    assert key_of(standing_of(REFRESH, row(REFRESH), cooldown("new"))) == ("cooling", "")
    assert key_of(model_standing(REFRESH, "k2", cooldown("new"))) == ("cooling", "/model")


def test_words_of_kimi_are_no_template() -> None:
    hostile = replace(CASES["renewing", ""], said="{label.__class__} {0}")
    assert "{label.__class__} {0}" in sentence(hostile)
