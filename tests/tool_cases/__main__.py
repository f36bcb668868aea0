"""``python -m tests.tool_cases``: other projects' published parser cases against our reader.

Reads local clones, for example those of vllm-project/vllm, sgl-project/sglang and ai-dynamo/dynamo. Test files in
Python are read by ``python_tests``, which runs nothing of them; files of data by ``fixtures``. Only cases are counted
whose answer holds a form that ``app.text.tools.foreign`` reads. Prints for each clone how many came out the same, and
the others by kind (``outcomes``). Exits with 1 only if there was no case at all: a difference may be meant.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from app.answers.json_checker import JsonChecker
from tests.tool_cases import fixtures, python_tests
from tests.tool_cases.ours import Notes
from tests.tool_cases.outcomes import KINDS, Outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tool_cases", description=__doc__)
    parser.add_argument("clones", nargs="+", type=Path, metavar="FOLDER", help="a clone, or a folder or file in one")
    parser.add_argument("--show", action="append", default=[], metavar="KIND", help="show the cases of this kind")
    options = parser.parse_args()
    checker = JsonChecker()
    found = False
    try:
        for clone in options.clones:
            notes = Notes()
            unread: Counter[str] = Counter()
            outcomes = [*fixtures.outcomes(clone, checker, notes)]
            outcomes += python_tests.outcomes(clone, checker, notes, unread)
            found = found or bool(outcomes)
            _report(clone, outcomes, notes, unread, options.show)
    finally:
        checker.close()
    return 0 if found else 1


def _report(clone: Path, outcomes: list[Outcome], notes: Notes, unread: Counter[str], show: list[str]) -> None:
    same = [outcome for outcome in outcomes if outcome.kind is None]
    print(f"{clone.name}: {len(outcomes)} cases, {len(same)} the same")
    if as_some := sum(outcome.as_some for outcome in same):
        print(f"  of those, {as_some} as some engines of the case and not as others")
    for form in sorted({outcome.form for outcome in outcomes}):
        of_form = [outcome for outcome in outcomes if outcome.form == form]
        kinds = Counter(outcome.kind for outcome in of_form if outcome.kind is not None)
        others = ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())
        print(
            f"  {form}: {len(of_form)} cases, {len(of_form) - kinds.total()} the same{'; ' if others else ''}{others}"
        )
    for kind in KINDS:
        if any(outcome.kind == kind for outcome in outcomes):
            print(f"  ({kind}) {KINDS[kind]}")
    print(f"  other results when cut at each character: {len(notes.cut)}; markup in the text: {len(notes.leaked)}")
    for what, where in (("cut", notes.cut), ("leaked", notes.leaked)):
        if what in show:
            print("\n".join(f"  {what}: {case}" for case in where))
    for reason, count in unread.most_common():
        print(f"  not read: {count}, {reason}")
    for outcome in outcomes:
        if outcome.kind in show:
            print(f"\n{outcome.case} ({outcome.form}, {outcome.kind})\n{outcome.shown}")


if __name__ == "__main__":
    sys.exit(main())
