"""What was said in conversations, where it is to be kept; sealed as tokens are. Must never know what it is for."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import per_dialect
from app.vault import Vault

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

_ADD = per_dialect(
    lambda insert: (
        insert(_transcripts)
        .values({column: _P(column.name) for column in _transcripts.c})
        .on_conflict_do_update(
            index_elements=["owner", "conversation_id", "turn", "line"], set_={"role": _P("role"), "text": _P("text")}
        )
    )
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

    def add(
        self, owner: str, conversation_id: str, turn: int, messages: Sequence[tuple[str, str]], first_line: int
    ) -> None:
        """Messages of one turn: role and text, in order."""

        def write(tx: Transaction) -> None:
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

        self._database.exclusively(write)

    def read(self, owner: str, conversation_id: str) -> list[tuple[str, str]]:
        """All messages of a conversation: role and text, in order."""
        rows = self._database.rows(_READ, of_owner=owner, of_id=conversation_id)
        return [(row["role"], self._vault.open(row["text"]) or "") for row in rows]
