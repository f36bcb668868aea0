"""What was said in conversations, where it is to be kept; sealed as tokens are. Must never know what it is for."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.tables import transcripts
from app.store.vault import Vault

_P = sa.bindparam
_THIS = (transcripts.c.owner == _P("of_owner"), transcripts.c.conversation_id == _P("of_id"))

_ADD = sa.insert(transcripts).values({column: _P(column.name) for column in transcripts.c})
_CUT = sa.delete(transcripts).where(*_THIS, transcripts.c.turn == _P("turn"), transcripts.c.line >= _P("first_line"))
_READ = (
    sa.select(transcripts.c.role, transcripts.c.text).where(*_THIS).order_by(transcripts.c.turn, transcripts.c.line)
)


class TranscriptRows:
    """The table of transcripts: one row per message."""

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
        """Messages of one turn, role and text, in order: they replace what may be there from this line on."""
        tx.run(_CUT, of_owner=owner, of_id=conversation_id, turn=turn, first_line=first_line)
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

    def read(self, owner: str, conversation_id: str) -> list[tuple[str, str]]:
        """All messages of a conversation: role and text, in order. Raises WrongSecret where one cannot be opened."""
        rows = self._database.rows(_READ, of_owner=owner, of_id=conversation_id)
        return [(row["role"], self._vault.open(row["text"]) or "") for row in rows]
