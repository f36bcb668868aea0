"""What users of the store see when the database fails. Knows no driver, no SQL and no policy."""


class StoreError(Exception):
    """The database failed. The message names the driver's error; it never holds a parameter of a statement.

    ``driver_error``: the name of the driver's exception class (PEP 249), or of SQLAlchemy's. Safe to show to anyone.
    ``is_transient``: the database was locked, restarting or out of reach, so the same work may succeed later.
    ``is_unreachable``: no connection could be opened, or it was lost.
    ``serves_nobody``: the database itself says that it is not there, or not ready, for anybody.
    ``is_unwritable``: it can be read and not written: the disk is full, read-only or broken.
    ``may_have_run``: a connection was lost before a result came, so what was asked for may have been committed.
    """

    def __init__(
        self,
        message: str,
        *,
        driver_error: str = "",
        is_transient: bool = False,
        is_unreachable: bool = False,
        serves_nobody: bool = False,
        is_unwritable: bool = False,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message)
        self.driver_error = driver_error
        self.is_transient = is_transient
        self.is_unreachable = is_unreachable
        self.serves_nobody = serves_nobody
        self.is_unwritable = is_unwritable
        self.may_have_run = may_have_run


class StoreUnusable(StoreError):
    """The database cannot be opened: the setting is wrong, or a newer gateway has migrated it."""


class StoreUnavailable(StoreUnusable):
    """The database cannot be opened now, but perhaps later: its server is down or restarting, or it is locked."""
