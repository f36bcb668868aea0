"""The pages for people, and what is generated in them.

A table of parameters stands between two marks, ``<!-- responses -->`` and ``<!-- /responses -->``, which name the
endpoint. The pages about settings are generated as a whole.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from click import Command
from click.testing import CliRunner

from app import cli
from tests.running import ROOT

_TABLE = re.compile(r"(<!-- ([a-z/]+) -->\n).*?(?=<!-- /\2 -->)", re.DOTALL)


def pages() -> list[Path]:
    """All pages, each also a page whose links are checked."""
    others = [ROOT / "bench/README.md", ROOT / "app/simulator/README.md"]
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *others]


def translated() -> list[tuple[Path, Path]]:
    """The pages that exist in both languages: English, Chinese."""
    both = ((page, page.with_suffix(".zh-CN.md")) for page in pages())
    return [(english, chinese) for english, chinese in both if chinese.exists()]


def with_generated_parts(page: Path) -> str:
    """The text of the page as it should be."""
    language = "zh" if page.name.endswith(".zh-CN.md") else "en"
    if page.name.startswith("settings."):
        return _printed(cli.settings, ["--language", language])
    return _TABLE.sub(
        lambda table: table[1] + _printed(cli.parameters, ["--of", table[2], "--language", language]),
        page.read_text(),
    )


def _printed(command: Command, arguments: Sequence[str]) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
