"""What can go wrong in a journal, each with its facts and what to do."""


class JournalError(Exception):
    """The root of every error that a journal raises.

    JournalError
    ├── WrongExpectedVersion   another writer appended first
    ├── StaleLease             another owner has taken the stream over
    ├── BlobNotFound           no blob has this digest
    ├── CorruptJournal         the stored bytes are not what was written
    │   └── DamagedFile         the store as a whole cannot be read as one
    ├── JournalUnavailable     the store cannot be read or written now; nothing was written
    │   ├── JournalReadOnly    the store can be read but not written
    │   └── JournalFull        no space is left
    ├── CommitOutcomeUnknown   a commit failed and nobody can tell yet whether it is on disk
    ├── JournalClosed          the journal was closed before, or belongs to the parent process
    ├── NoTransactions         this store cannot take the caller's own writes into its commits
    ├── StatementRefused       a statement that a transaction in other hands may not run
    ├── TransactionOver        the transaction was rolled back or committed before
    ├── CommitRefused          the caller's own constraints do not let it be committed
    ├── InvalidAppend          an append that no state of the stream could accept
    ├── InvalidQuery           a query that no journal could answer
    ├── InvalidJournalUrl      no backend is named by this URL
    ├── NotAJournal            the file is something else
    └── NewerSchema            a later version of this package wrote the store
    """


class WrongExpectedVersion(JournalError):
    """The stream is not at the version that the writer decided on."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream!r} is at version {actual}, not {expected}: another writer appended "
            "first; read the stream again and decide anew"
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class StaleLease(JournalError):
    """The writer's lease is not the stream's current one."""

    def __init__(self, stream: str, epoch: int, current_epoch: int) -> None:
        super().__init__(
            f"the lease of epoch {epoch} on stream {stream!r} is over (now at epoch "
            f"{current_epoch}): another owner has taken it over; stop working on it"
        )
        self.stream = stream
        self.epoch = epoch
        self.current_epoch = current_epoch


class BlobNotFound(JournalError):
    """No blob has this digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"no blob has the digest {digest}; it was erased, or never written here")
        self.digest = digest


class CorruptJournal(JournalError):
    """The stored bytes are not what was written."""

    def __init__(self, stream: str, version: int, what: str) -> None:
        super().__init__(
            f"stream {stream!r} is damaged at version {version}: {what}; restore the journal "
            "from a backup, or inspect it with `kitaru journal verify`"
        )
        self.stream = stream
        self.version = version
        self.what = what


class DamagedFile(CorruptJournal):
    """The store as a whole cannot be read as one; no single stream can be named."""

    def __init__(self, location: str, what: str) -> None:
        JournalError.__init__(
            self,
            f"the journal at {location} is damaged: {what}; restore it from a backup, or inspect "
            "it with `kitaru journal verify`",
        )
        self.stream = ""
        self.version = 0
        self.what = what
        self.location = location


class JournalUnavailable(JournalError):
    """The store cannot be read or written now; what was asked for has not happened."""


class JournalReadOnly(JournalUnavailable):
    """The store can be read but not written."""


class JournalFull(JournalUnavailable):
    """No space is left where the journal is."""


class CommitOutcomeUnknown(JournalError):
    """A commit failed with an I/O error and reading back was not possible either."""


class JournalClosed(JournalError):
    """The journal was closed before."""


class NoTransactions(JournalError):
    """This store cannot take the caller's own writes into its commits."""


class StatementRefused(JournalError):
    """A statement that a transaction in other hands may not run; the transaction goes on."""


class TransactionOver(JournalError):
    """The transaction was rolled back or committed before; nothing of this was done."""


class CommitRefused(JournalError):
    """The caller's own constraints do not let it be committed; ``__cause__`` is what they say."""


class InvalidAppend(JournalError, ValueError):
    """An append that no state of the stream could accept: the caller's mistake."""


class InvalidQuery(JournalError, ValueError):
    """A query that no journal could answer: the caller's mistake."""


class InvalidJournalUrl(JournalError):
    """No backend is named by this URL."""


class NotAJournal(JournalError):
    """The file exists and is not a journal."""


class NewerSchema(JournalError):
    """A later version of this package wrote the store."""

    def __init__(self, location: str, found: int, supported: int) -> None:
        super().__init__(
            f"the journal at {location} has schema {found}, and this version knows schemas up to "
            f"{supported}: use the version that wrote it, or a later one"
        )
        self.location = location
        self.found = found
        self.supported = supported
