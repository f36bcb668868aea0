"""The messages of stored conversations, sealed by ``vault``. Written only if STORE_TRANSCRIPTS is set."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.tables import transcripts
from app.store.vault import Vault

_P = sa.bindparam
_OF_CONVERSATION = (transcripts.c.owner == _P("of_owner"), transcripts.c.conversation_id == _P("of_id"))

_ADD = sa.insert(transcripts).values({column: _P(column.name) for column in transcripts.c})
_DELETE_FROM = sa.delete(transcripts).where(
    *_OF_CONVERSATION, transcripts.c.turn == _P("turn"), transcripts.c.line >= _P("first_line")
)
_DELETE_TURN = sa.delete(transcripts).where(*_OF_CONVERSATION, transcripts.c.turn == _P("turn"))
_READ = (
    sa.select(transcripts.c.turn, transcripts.c.role, transcripts.c.text)
    .where(*_OF_CONVERSATION)
    .order_by(transcripts.c.turn, transcripts.c.line)
)


class TranscriptRows:
    """The table ``transcripts``: one row per message."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def put(
        self,
        tx: Transaction,
        owner: str,
        conversation_id: str,
        turn: int,
        messages: Sequence[tuple[str, str]],
        first_line: int,
    ) -> None:
        """Stores messages of one turn, each (role, text), in order. They replace the lines from ``first_line`` on."""
        tx.run(_DELETE_FROM, of_owner=owner, of_id=conversation_id, turn=turn, first_line=first_line)
        for line, (role, text) in enumerate(messages, first_line):
            tx.run(
                _ADD,
                owner=owner,
                conversation_id=conversation_id,
                turn=turn,
                line=line,
                role=role,
                text=self._vault.seal(text),
            )

    def delete_turn(self, tx: Transaction, owner: str, conversation_id: str, turn: int) -> None:
        tx.run(_DELETE_TURN, of_owner=owner, of_id=conversation_id, turn=turn)

    def read(self, owner: str, conversation_id: str) -> list[tuple[int, str, str]]:
        """All messages of a conversation in order, each (turn, role, text).

        Raises WrongSecret: if one cannot be opened.
        """
        rows = self._database.rows(_READ, of_owner=owner, of_id=conversation_id)
        return [(row["turn"], row["role"], self._vault.open(row["text"]) or "") for row in rows]
