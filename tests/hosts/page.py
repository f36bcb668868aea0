"""The page ``docs/hosting.md``: the examples in it, and the table of what was seen."""

import re
from collections.abc import Sequence
from pathlib import Path

from tests.running import ROOT

_PAGE = ROOT / "docs" / "hosting.md"
_EXAMPLE = re.compile(r"<!-- run: (\S+) -->\n```\w*\n(.*?)```", re.DOTALL)
_TABLE = re.compile(r"(<!-- hosts: table -->\n).*?(?=<!-- hosts: end -->)", re.DOTALL)


def examples() -> dict[str, str]:
    """The text of each example by its name."""
    return dict(_EXAMPLE.findall(_PAGE.read_text()))


def update(header: Sequence[str], rows: Sequence[Sequence[str]], page: Path = _PAGE) -> str:
    """Writes the table into the page, and returns it. A row replaces the one with the same first field; the others
    stay as they are."""
    text = page.read_text()
    found = _TABLE.search(text)
    assert found is not None, f"{page.name} has no table"
    old = [line.strip("| ").split(" | ") for line in found.group().splitlines() if line.startswith("| ")]
    kept = {fields[0]: fields for fields in old[2:] if len(fields) == len(header)}
    kept |= {row[0]: list(row) for row in rows}
    lines = [header, ["---"] * len(header), *kept.values()]
    table = "".join(f"| {' | '.join(fields)} |\n" for fields in lines)
    page.write_text(_TABLE.sub(lambda match: match[1] + table, text))
    return table
