"""What must be true of a chaos run at its end. Reads the ledger, the database, Kimi and the logs, and goes on with
every conversation; writes what is wrong into the ledger.

Must never know what was broken when.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from app.accounts.scheduling import MAX_COOLDOWN_S
from app.conversations.recognition import MAX_MESSAGES
from tests.chaos.clients import Chatter
from tests.chaos.havoc import start
from tests.chaos.ledger import Conversation, Ledger, Seen, Taken
from tests.chaos.plan import ACCOUNTS, CONNECT_MODELS, SSE_MODELS, USER_MARK, Questions
from tests.chaos.site import (
    COMMIT_AFTER_S,
    CONTINUE_IDLE_S,
    CONTINUE_MAX,
    KEYS,
    LEASE_S,
    WORKERS,
    Gateway,
    Site,
)
from tests.running import secrets_in, wait_until

# How often the gateway sweeps up what the dead have left is a minute at most.
_SWEPT_IN_S = 90.0
_STOPS_IN_S = 25.0
# How long one search for all lost chats takes, and how many there are at most, where Kimi serves its lists.
_SEARCHED_IN_S = 60.0
_SEARCHES = 3
_JUDGE = 9999
_TURN_LINE = re.compile(r"turn model=\S+ upstream=\S+ account=\S+ attempts=(\d+) .* end=(\S+)")


class Verdict:
    """One look at a site on which nothing goes wrong on purpose any more, and nobody asks."""

    def __init__(self, site: Site, ledger: Ledger, chatter: Chatter, seed: int) -> None:
        self._site = site
        self._tables = site.tables
        self._ledger = ledger
        self._chatter = chatter
        self._questions = Questions(seed, _JUDGE, fault_share=0.0)
        self._dice = random.Random(f"{seed}/judge")

    def settle(self) -> None:
        """Everything that was held is given back, by itself and in time."""
        self._within("no upstream stream is open", lambda: self._site.simulator.state()["open_streams"] == 0, 60)
        if not self._within("nothing is leased, nobody is in line", self._nothing_is_held, LEASE_S + _SWEPT_IN_S):
            self._ledger.wrong(f"held for ever: {self._tables.held()}")
        self._within("no conversation is held", lambda: not self._tables.conversations_in_use(), LEASE_S + 60)
        expected = len(self._site.gateways) * WORKERS
        self._within(
            "only the living are present",
            lambda: self._tables.living_processes() == expected,
            # One that was killed while it had nothing to do has a longer lease.
            10 * LEASE_S,
        )
        if any(cooldown.seconds > MAX_COOLDOWN_S * 1.2 for cooldown in self._tables.cooldowns()):
            self._ledger.wrong("an account rests for longer than any account may")

    def let_time_pass(self) -> None:
        """As if the longest rest had passed, and the time after which forgotten chats are deleted."""
        self._tables.let_cooldowns_end()
        self._tables.let_deletions_be_due()
        # The first thing that a gateway does is to sweep. This one was stopped in good order.
        self._restart(self._site.gateways[0])

    def check_accounts(self) -> None:
        """Each serves again, of itself."""
        before = self._turns_by_account()

        def served() -> set[str]:
            now = self._turns_by_account()
            return {name for name in ACCOUNTS if now[name] > before[name]}

        for _ in range(20):
            if served() == set(ACCOUNTS):
                return
            models = [self._dice.choice((*SSE_MODELS, *CONNECT_MODELS)) for _ in ACCOUNTS]
            with ThreadPoolExecutor(len(models)) as pool:
                for problem in pool.map(self._serves, models):
                    if problem:
                        self._ledger.wrong(problem)
        self._ledger.wrong(f"accounts that do not serve any more: {sorted(set(ACCOUNTS) - served())}")

    def check_conversations(self) -> None:
        """Every one goes on, with what was said in it and nothing else."""
        going_on = [c for c in self._ledger.conversations if not c.gone and c.turns]
        with ThreadPoolExecutor(6) as pool:
            recalled = list(pool.map(self._recall, going_on))
        self._ledger.read_journal()
        last = {taken.marks[-1]: taken for taken in self._ledger.taken}
        for conversation, seen in zip(going_on, recalled, strict=True):
            if seen.outcome != "whole":
                self._ledger.wrong(f"{conversation.id} does not go on: {seen.outcome} {seen.status} {seen.code}")
                continue
            # In a chat that had to be made anew, what was said before stands in the question itself.
            said = [*USER_MARK.findall(seen.text), *last[seen.mark].marks[:-1]]
            if conversation.is_named:
                self._check_content(conversation, said)
            else:
                self._check_unnamed(conversation, said)
            self._ledger.count("conversations that go on")

    def check_journal(self) -> None:
        """What Kimi has taken in: nothing doubled, nothing in the wrong chat."""
        taken, belongs = self._ledger.taken, self._ledger.belongs
        for entry in taken:
            if len({belongs.get(mark) for mark in entry.marks}) != 1:
                self._ledger.wrong(f"messages of several conversations in one: {entry.marks}")
        for chat, entries in self._ledger.by_chat().items():
            own = [entry.marks[-1] for entry in entries]
            if len({belongs.get(mark) for mark in own}) > 1 or len({entry.account for entry in entries}) > 1:
                self._ledger.wrong(f"chat {chat} was used for several conversations: {own}")
            for mark in _doubled(own):
                self._ledger.wrong(f"{mark} was said twice in chat {chat}")
        for name, chat in self._site.simulator.state()["chats"].items():
            if chat["collisions"]:
                self._ledger.wrong(f"two turns at once in chat {name}, {chat['collisions']} times")
        known = {entry.marks[-1] for entry in taken}
        for mark in self._ledger.confirmed:
            if mark not in known:
                self._ledger.wrong(f"{mark} was answered, but never asked")
        for conversation in self._ledger.conversations:
            if conversation.is_named:
                self._check_chats(conversation, taken)

    def check_open_chats(self) -> None:
        """None is left when all have been unused for long enough."""
        chats, turns = self._tables.open_chats(), self._tables.turns_of_open_chats()
        self._ledger.counts["open chats at the end"] = chats
        # What the judge has asked is in it, too.
        if chats > len(KEYS) * CONTINUE_MAX or turns > chats * MAX_MESSAGES:
            self._ledger.wrong(f"{chats} open chats, with {turns} turns")
        self._tables.let_open_chats_age(CONTINUE_IDLE_S)
        self._within(
            "no open chat is left",
            lambda: not self._tables.open_chats() + self._tables.turns_of_open_chats(),
            _SWEPT_IN_S,
        )

    def check_litter(self) -> None:
        """Chats that nobody needs are gone, also those whose ids were lost by a kill between Kimi and the store."""
        for _ in range(_SEARCHES):
            if self._tables.lost_chats():
                # The next search would come a minute later.
                self._tables.let_searches_be_due()
                self._restart(self._site.gateways[0])
                self._within("a search is over", lambda: not self._tables.searches_are_due(), _SEARCHED_IN_S)
        self._within("no lost chat is looked for", lambda: not self._tables.lost_chats(), _SEARCHED_IN_S)
        self._within("no chat is left to be deleted", lambda: not self._tables.chats_to_delete(), _SWEPT_IN_S)
        chats = self._site.simulator.state()["chats"]
        left = {name for name, chat in chats.items() if not chat["deleted"]}
        kept = self._tables.chats_of_conversations()
        self._ledger.counts["chats opened"] = len(chats)
        self._ledger.counts["chats left over"] = orphans = len(left - kept)
        if orphans:
            asked = {chat: [entry.marks[-1] for entry in entries] for chat, entries in self._ledger.by_chat().items()}
            details = [
                f"{name}: {chats[name]['generation']}, of {chats[name]['owner']}, asked {asked.get(name)}"
                for name in sorted(left - kept)[:10]
            ]
            self._ledger.wrong(
                f"{orphans} of {len(chats)} chats are left over at Kimi, and nobody knows them: {'; '.join(details)}"
            )

    def check_end(self) -> None:
        """Gateways that were stopped in good order leave nothing behind, and their logs tell no secret."""
        # The gateways sweep while they run.
        if not self._within("no row is left over", lambda: not self._tables.leftovers(), _SWEPT_IN_S):
            self._ledger.wrong(f"rows are left over: {self._tables.leftovers()}")
        for gateway in self._site.gateways:
            self._stop(gateway)
        living = self._tables.living_processes()
        if living or not self._nothing_is_held():
            self._ledger.wrong(f"stopped gateways have left behind: {living}, {self._tables.held()}")
        logs = b"".join(log.read_bytes() for log in self._site.logs)
        for kind in secrets_in(logs, self._site.secrets):
            self._ledger.wrong(f"a log holds {kind}")
        for kind in secrets_in(self._site.database.content(), self._site.secrets):
            self._ledger.wrong(f"the database holds {kind}")
        self._read_logs(logs.decode(errors="replace"))

    # Parts

    def _restart(self, gateway: Gateway) -> None:
        self._stop(gateway)
        start(gateway)

    def _stop(self, gateway: Gateway) -> None:
        """Nothing runs on it, so that there is nothing to wait for."""
        seconds = gateway.stop()
        self._ledger.settled[f"gateway {gateway.name} has stopped"] = seconds
        if seconds > _STOPS_IN_S:
            self._ledger.wrong(f"gateway {gateway.name} took {seconds:.0f} s to stop, with nothing to do")

    def _within(self, what: str, condition: object, timeout_s: float) -> bool:
        began = time.monotonic()
        try:
            wait_until(what, condition, timeout_s)
        except AssertionError as e:
            self._ledger.wrong(str(e))
            return False
        self._ledger.settled[what] = time.monotonic() - began
        return True

    def _nothing_is_held(self) -> bool:
        return not self._tables.held()

    def _turns_by_account(self) -> Counter[str]:
        accounts = self._site.simulator.state()["accounts"]
        return Counter({name: account["turns"] for name, account in accounts.items()})

    def _gateway(self) -> Gateway:
        return self._dice.choice(self._chatter.gateways)

    def _serves(self, model: str) -> str | None:
        question = self._questions.next("connect" if model.startswith("kimi-") else "sse", calm=True)
        seen = self._chatter.ask(self._gateway(), self._dice.choice(KEYS), question, model)
        return None if seen.outcome == "whole" else f"in peace: {seen.outcome} {seen.status} {seen.code}"

    def _recall(self, conversation: Conversation) -> Seen:
        question = self._questions.recall()
        return self._chatter.ask(self._gateway(), conversation.key, question, conversation.model, conversation)

    def _check_content(self, conversation: Conversation, said: list[str]) -> None:
        turns = {turn.mark: turn for turn in conversation.turns}
        problems = len(self._ledger.problems)
        if strangers := [mark for mark in said if mark not in turns]:
            self._ledger.wrong(f"{conversation.id} holds what was never said in it: {strangers}")
        for mark in _doubled(said):
            self._ledger.wrong(f"{conversation.id} holds {mark} twice")
        confirmed = [turn for turn in conversation.turns if turn.outcome == "whole"]
        for turn in confirmed:
            if turn.mark not in said:
                self._ledger.wrong(f"{conversation.id} has forgotten {turn.mark}")
        order = {mark: i for i, mark in enumerate(said)}
        for one, next_one in zip(confirmed, confirmed[1:], strict=False):
            at_once = next_one.began < one.ended
            if not at_once and order.get(one.mark, -1) > order.get(next_one.mark, len(said)):
                self._ledger.wrong(f"{conversation.id}: {next_one.mark} stands before {one.mark}")
        if len(self._ledger.problems) > problems:
            seen = [(turn.mark, turn.outcome, turn.code, turn.rebuilt) for turn in conversation.turns]
            taken = [t for t in self._ledger.taken if self._ledger.belongs[t.marks[-1]] == conversation.id]
            self._ledger.wrong(f"{conversation.id}, as its client saw it: {seen}; as Kimi did: {taken}; now: {said}")

    def _check_unnamed(self, conversation: Conversation, said: list[str]) -> None:
        """Kimi knows what its client sends, and nothing else: what was cut, or edited, is on no branch of it."""
        sent = [USER_MARK.findall(question)[0] for question, _ in conversation.history]
        if said != sent:
            seen = [(turn.mark, turn.outcome, turn.code, turn.how) for turn in conversation.turns]
            self._ledger.wrong(f"{conversation.id} holds {said}, its client sends {sent}; the client saw {seen}")

    def _check_chats(self, conversation: Conversation, taken: Iterable[Taken]) -> None:
        """A conversation changes its chat only where it says so, or where its client saw no end."""
        chat_of = {entry.marks[-1]: entry.chat for entry in taken}
        for one, next_one in zip(conversation.turns, conversation.turns[1:], strict=False):
            if one.outcome != "whole" or next_one.outcome != "whole":
                continue
            moved = chat_of.get(one.mark) != chat_of.get(next_one.mark)
            # After so long the headers of a stream are out already.
            said_so = next_one.rebuilt is not None or next_one.seconds > COMMIT_AFTER_S
            if moved and not said_so:
                self._ledger.wrong(f"{conversation.id} went to another chat with {next_one.mark} and did not say so")

    def _read_logs(self, text: str) -> None:
        counts = self._ledger.counts
        for line in _TURN_LINE.finditer(text):
            counts["turns in the logs"] += 1
            counts["attempts in the logs"] += int(line[1])
            counts["turns with more than one attempt"] += int(line[1]) > 1
        for name in tracebacks(text):
            self._ledger.counts[f"traceback: {name}"] += 1
            self._ledger.wrong(f"a traceback in a log: {name}")


def tracebacks(log: str) -> list[str]:
    """The exceptions that tracebacks end with: their names, since their texts may be long."""
    found = []
    for traceback in log.split("Traceback (most recent call last):")[1:]:
        last = next((line for line in traceback.splitlines()[1:] if line and not line.startswith(" ")), "")
        found.append(last[:200])
    return found


def _doubled(marks: list[str]) -> list[str]:
    return [mark for mark, times in Counter(marks).items() if times > 1]
