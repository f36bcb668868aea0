"""What came of a case, and the kinds of differences."""

from dataclasses import dataclass

from tests.tool_cases.ours import Read, is_in_a_line

# What each kind means, and whether it is meant.
KINDS = {
    "a name that was not declared": "meant: a call in a foreign form counts only if the client offers the function",
    "a cut call": "meant: a call without its end is never completed; Kimi is asked again",
    "a flawed call": "meant: arguments that are not JSON are not passed on; Kimi is asked again",
    "a call in a line": "meant: tags that anybody may write in a sentence begin a call only at the start of a line",
    "a call in an open section": "meant: the calls of a section are given when it ends, or the answer does",
    "a type": "meant: a value gets the type that the schema asks for",
    "an id": "meant: all is the same but for the ids of calls, which are ours",
    "text around the calls": "the calls are the same, the text beside them is another one",
    "calls": "other calls",
}


@dataclass
class Outcome:
    """``kind``: of the difference, None: the same result. ``as_some``: other engines in the case say otherwise."""

    case: str
    form: str
    kind: str | None
    shown: str
    as_some: bool = False


def difference(read: Read, what: str, answers: str) -> str:
    """The kind of a difference in ``calls``, ``text`` or ``types``."""
    if "unfinished" in read.flaws:
        return "a cut call"
    if read.flaws:
        return "a flawed call"
    if is_in_a_line(answers) and not read.calls:
        return "a call in a line"
    if what == "types":
        return "a type"
    return "text around the calls" if what == "text" else "calls"
