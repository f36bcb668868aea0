"""The sentences of the doctor: what each says in English, it says in Chinese, too."""

import re
import string
from pathlib import Path

import pytest

from app import doctor
from app.accounts.standings import Standing
from app.doctor.wording import SENTENCES, Advice, Span, State, Value, say, written
from app.errors import AccountLimited, AnswerEmpty, NoAccountFree
from app.upstreams.kimi.quota import Quota

CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
SOURCES = {path: path.read_text() for path in Path(doctor.__file__).parent.glob("*.py")}
COMMANDS = Path(doctor.__file__).parents[1] / "cli.py"


def test_each_sentence_has_the_same_values_in_both_languages() -> None:
    failed = {key: wrong for key, both in SENTENCES.items() if (wrong := what_is_wrong_with(*both))}
    assert failed == {}


def what_is_wrong_with(english: str, chinese: str) -> str:
    if not english or not chinese:
        return "a language is missing"
    if CHINESE.search(english):
        return f"Chinese in the English one: {english}"
    names = [
        {name for _, name, _, _ in string.Formatter().parse(text) if name is not None} for text in (english, chinese)
    ]
    if names[0] != names[1]:
        return f"other values: {names}"
    # A command is the same in both languages, and so is what consists of values only.
    words = re.sub(r"\{[^}]*\}|flask --app wsgi [a-z-]+|chmod 600", "", english)
    return "" if CHINESE.search(chinese) or not re.search("[A-Za-z]", words) else f"not translated: {chinese}"


def test_every_sentence_is_used_and_every_used_one_is_there() -> None:
    text = "\n".join(text for path, text in SOURCES.items() if path.name != "wording.py") + COMMANDS.read_text()
    used = set(re.findall(r"""\bsay\(\s*"(\w+)"\s*[,)]""", text))
    assert used <= set(SENTENCES)
    # Some keys stand in tables, or after an if.
    assert {key for key in SENTENCES if f'"{key}"' not in text and not re.fullmatch(r"turn_\w+", key)} == set()
    assert {f"turn_{end}{renewed}" for end in ("failed", "empty", "answered") for renewed in ("", "_renewed")} <= set(
        SENTENCES
    )


@pytest.mark.parametrize(
    ("value", "english", "chinese"),
    [
        (Span(720), "12 minutes", "12 分钟"),
        (["k2", "k3"], "k2, k3", "k2、k3"),
        (3, "3", "3"),
        (AccountLimited("home: slow down"), "home: slow down", "Kimi 限制了此账号的使用（home: slow down）"),
        (AnswerEmpty("nothing"), "nothing", "Kimi 的回答是空的（nothing）"),
        (NoAccountFree("all are busy"), "all are busy", "网关不能完成（all are busy）"),
        (
            Quota(0.5, "2026-12-01T00:00:00Z", {"5 hours": 0.25}),
            "50% of the credits left",
            "额度剩余 50%（2026-12-01 恢复",
        ),
        (Quota(None, "", {}), "Kimi says: nothing about credits", "Kimi 说：没有提到额度"),
        (State(Standing("paused", "acc_1", "home", since=0.0)), "You paused this account", "暂停了此账号"),
        (Advice(Standing("paused", "acc_1", "home", since=0.0)), "", ""),
    ],
)
def test_a_value_is_written_in_each_language(value: Value, english: str, chinese: str) -> None:
    assert english in written(value, "en") and chinese in written(value, "zh")


def test_words_of_kimi_are_no_template() -> None:
    error = AccountLimited("home: {label} %s {0}")
    assert written(say("turn_failed", name="kimi", model="k2", error=error), "en") == f"kimi, k2: {error.message}"
