"""The database: what several workers must agree on, and what must survive them.

Knows SQL and the migrations. Knows no policy: not what is fresh, who is next, or what a client may do. Holds message
text only where transcripts are switched on, and tokens only of accounts that are refreshed or were added by command;
``vault`` seals both.
Times are Unix seconds.
"""

import secrets

from app.store.account_entries import AccountEntryRow, AccountEntryRows
from app.store.accounts import AccountRows
from app.store.api_keys import KeyNameTaken, KeyRow, KeyRows
from app.store.chat_cleanup import PendingDeletion, PendingDeletionRows
from app.store.console import ConsoleRows
from app.store.conversations import ConversationRow, ConversationRows
from app.store.database import Database, Transaction
from app.store.errors import StoreError, StoreUnavailable, StoreUnusable
from app.store.facts import Facts, Unrecognised, UnrecognisedRow
from app.store.figures import FigureRows
from app.store.files import FileRow, FileRows
from app.store.idempotency import IdempotentAnswerRow, IdempotentAnswerRows
from app.store.leases import LeaseRow, LeaseRows
from app.store.ledger import LedgerRows
from app.store.login_tokens import TokenRow, TokenRows, TokenState, WantedRefresh
from app.store.lost_chats import LostChatRows
from app.store.migrations import VERSION, migrate
from app.store.notifications import NotificationRows
from app.store.open_chats import OpenChatRows
from app.store.processes import ProcessRows
from app.store.roles import RoleRows
from app.store.transcripts import TranscriptRows
from app.store.uploads import UploadRows
from app.store.vault import Vault, WrongSecret

__all__ = [
    "AccountEntryRow",
    "ConversationRow",
    "Database",
    "FileRow",
    "IdempotentAnswerRow",
    "KeyNameTaken",
    "KeyRow",
    "LeaseRow",
    "PendingDeletion",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TokenRow",
    "TokenState",
    "Transaction",
    "UnrecognisedRow",
    "WantedRefresh",
    "WrongSecret",
]

# How long a check whether something can be written waits. Seconds.
_CHECK_FOR_S = 1.0


class Store:
    """All tables of one database, opened once per process.

    Opening raises StoreUnusable. All methods of its parts raise StoreError if the database fails.
    """

    # The number of migrations that this gateway knows, and that the database has seen.
    version = VERSION

    def __init__(self, url: str, secret: str | None = None, *, durable: bool = False) -> None:
        """``url``: of SQLAlchemy. ``secret``: seals tokens and transcripts. ``durable``: see Database."""
        self.database = Database(url, durable=durable)
        try:
            migrate(self.database)
            self.accounts = AccountRows(self.database)
            self.processes = ProcessRows(self.database)
            self.roles = RoleRows(self.database)
            self.leases = LeaseRows(self.database)
            self.figures = FigureRows(self.database)
            self.ledger = LedgerRows(self.database)
            self.idempotent_answers = IdempotentAnswerRows(self.database)
            self.conversations = ConversationRows(self.database)
            self.open_chats = OpenChatRows(self.database)
            self.keys = KeyRows(self.database)
            self.pending_deletions = PendingDeletionRows(self.database)
            self.lost_chats = LostChatRows(self.database)
            self.uploads = UploadRows(self.database)
            self.files = FileRows(self.database)
            self.facts = Facts(self.database)
            self.unrecognised = Unrecognised(self.database)
            self.notifications = NotificationRows(self.database)
            salt = bytes.fromhex(self.facts.set_once("vault_salt", secrets.token_hex(16)))
            # Tells this database from others.
            self.name = self.facts.set_once("name", secrets.token_hex(8))
            # Seals what else is private, such as a text that was pasted and is not stored yet.
            self.vault = vault = Vault(secret, salt)
            # For digests of what is said in conversations.
            self.digest_key = bytes.fromhex(self.facts.set_once("digest_key", secrets.token_hex(32)))
            self.tokens = TokenRows(self.database, vault)
            self.account_entries = AccountEntryRows(self.database, vault)
            self.transcripts = TranscriptRows(self.database, vault)
            self.console = ConsoleRows(self.database)
        except WrongSecret as e:
            self.close()
            raise StoreUnusable(f"GATEWAY_SECRET: {e}") from e
        except StoreUnusable:
            self.close()
            raise
        except StoreError as e:
            self.close()
            raise self.database.unusable(e) from e

    def seal(self) -> None:
        """Seals the tokens that were stored before GATEWAY_SECRET was set.

        Only the gateway may call this. A command may have the secret while the gateway still runs without it.
        """
        self.tokens.seal()
        self.account_entries.seal()

    def close(self) -> None:
        self.database.close()

    def check_writable(self) -> None:
        """Raises StoreError if nothing can be written. Waits a second for a database that another one uses or that
        is unavailable, and no longer.

        It writes: a statement that changes no row succeeds on a full disk.
        """
        with self.database.retrying_for(_CHECK_FOR_S):
            self.facts.put("written_at", str(self.database.now()), self.database.now())
