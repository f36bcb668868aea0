"""The page of all settings, ``docs/settings.md``, for the command ``flask --app wsgi settings``."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.settings.config import Language, Setting, describe_settings


def describe(language: Language) -> str:
    """The page in Markdown."""
    words = _WORDS[language]
    settings = describe_settings()
    return "\n".join(
        [
            f"# {words.title}",
            "",
            words.introduction,
            "",
            *_table(words, (s for s in settings if not s.is_advanced), language),
            "",
            f"## {words.advanced}",
            "",
            words.about_advanced,
            "",
            *_table(words, (s for s in settings if s.is_advanced), language),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Words:
    title: str
    introduction: str
    columns: tuple[str, ...]
    none: str
    advanced: str
    about_advanced: str


_WORDS: dict[Language, _Words] = {
    "en": _Words(
        title="Settings",
        introduction=(
            "Settings are environment variables, or lines `NAME=value` in the file `.env`; the environment wins. A "
            "setting with an\ninvalid value stops the start with one line that names it and says what is accepted. "
            "`flask --app wsgi doctor` lists all\nof them at once.\n\n"
            "This page is the output of `flask --app wsgi settings --language en` ([中文](settings.zh-CN.md))."
        ),
        columns=("name", "default", "accepted", "meaning"),
        none="none",
        advanced="Advanced",
        about_advanced="The defaults of these suit nearly everybody. Tests and unusual networks need other values.",
    ),
    "zh": _Words(
        title="设置项",
        introduction=(
            "设置项是环境变量，或 `.env` 文件里的 `名称=值`；两处都有时以环境变量为准。填错了就不会启动，"
            "并用一行话说明是哪一项、应该怎么填。\n`flask --app wsgi doctor` 会一次列出所有填错的设置项。\n\n"
            "本页由 `flask --app wsgi settings --language zh` 生成（[English](settings.md)）。"
        ),
        columns=("名称", "默认值", "取值", "含义"),
        none="无",
        advanced="高级设置",
        about_advanced="这些设置项的默认值几乎适合所有人，只有测试和特殊网络环境才需要改。",
    ),
}


def _table(words: _Words, settings: Iterable[Setting], language: Language) -> list[str]:
    lines = [f"| {' | '.join(words.columns)} |", "|---|---|---|---|"]
    for setting in settings:
        default = f"`{setting.default}`" if setting.default else words.none
        about = setting.about if language == "en" else setting.about_zh
        cells = (f"`{setting.name}`", default, setting.parser.values, about)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
