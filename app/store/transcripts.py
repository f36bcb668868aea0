"""What was said in conversations, where it is to be kept; sealed as tokens are. Must never know what it is for."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.vault import Vault

_transcripts = sa.table(
    "transcripts",
    sa.column("owner", sa.String),
    sa.column("conversation_id", sa.String),
    sa.column("turn", sa.Integer),
    sa.column("line", sa.Integer),
    sa.column("role", sa.String),
    sa.column("text", sa.Text),
)

_P = sa.bindparam
_THIS = (_transcripts.c.owner == _P("of_owner"), _transcripts.c.conversation_id == _P("of_id"))

_ADD = sa.insert(_transcripts).values({column: _P(column.name) for column in _transcripts.c})
_CUT = sa.delete(_transcripts).where(
    *_THIS, _transcripts.c.turn == _P("turn"), _transcripts.c.line >= _P("first_line")
)
_READ = (
    sa.select(_transcripts.c.role, _transcripts.c.text)
    .where(*_THIS)
    .order_by(_transcripts.c.turn, _transcripts.c.line)
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
