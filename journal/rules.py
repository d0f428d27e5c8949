"""What an append or a claim must look like before any stream is looked at."""

from journal.errors import InvalidAppend, InvalidQuery
from journal.records import Adoption, Append, Claim, ClaimQuery, HeadChange, KeyQuery

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LONGEST_SECONDS = 1e12


def category_of(stream: str) -> str:
    """The part of a stream's name before its first hyphen."""
    return stream.partition("-")[0]


def check_append(append: Append) -> None:
    """Raises InvalidAppend for what no state of any stream could accept."""
    stream = append.stream
    _check_stream(stream)
    for event in append.events:
        # Written out: this is done for every event of a fan-out, and a call costs more than a look.
        if type(event.payload) is not bytes:
            _check_bytes(event.payload)
        if type(event.type) is not str or not event.type.isascii():
            _check_text(event.type)
        _check_integer(event.schema)
        if event.key is not None:
            _check_key(event.key)
    if append.head is not None:
        _check_head(append.head)
    elif append.expected_version == 0:
        raise InvalidAppend(f"the first append to {stream!r} must bring a head")
    if append.expected_version == 0 and not append.events:
        raise InvalidAppend(f"the first append to {stream!r} must bring an event")
    if append.lease is not None and append.lease.stream != stream:
        raise InvalidAppend(f"a lease on {append.lease.stream!r} allows no append to {stream!r}")
    if append.release and append.lease is None:
        raise InvalidAppend("an append that releases a lease must name it")
    for blob in append.blobs:
        _check_bytes(blob)
    if append.claim is not None:
        _check_claim(append.claim)
        if append.release:
            raise InvalidAppend("an append may claim a lease or release one, not both")


def check_adoption(adoption: Adoption) -> None:
    """Raises InvalidAppend for what is not a whole and sound stream."""
    from journal.hashing import verify_stream

    if not adoption.events:
        raise InvalidAppend("a stream cannot be adopted without its events")
    stream = adoption.events[0].stream
    _check_stream(stream)
    _check_head(adoption.head)
    for event in adoption.events:
        if event.stream != stream:
            raise InvalidAppend(f"{event.stream!r} and {stream!r} are two streams")
        _check_bytes(event.payload)
        if event.payload and event.payload_digest is not None:
            raise InvalidAppend(f"event {event.version} of {stream!r} is erased, and has a payload")
        _check_text(event.type)
        for number in (event.schema, event.recorded_at, event.epoch):
            _check_integer(number)
    for finding in verify_stream(adoption.events):
        raise InvalidAppend(
            f"event {finding.version} of {stream!r} is {finding.kind}: {finding.what}"
        )
    for blob in adoption.blobs:
        _check_bytes(blob)


def check_claim_query(query: ClaimQuery) -> None:
    """Raises InvalidQuery for a claim that no journal could answer."""
    try:
        _check_claim(query.claim)
        texts = (*(query.names or ()), *query.besides, *query.routes, query.stream or "")
        for text in (query.category, *texts):
            _check_text(text)
    except InvalidAppend as error:
        raise InvalidQuery(str(error)) from None


def check_key_query(query: KeyQuery) -> None:
    """Raises InvalidQuery for keys that no event can have."""
    for key in query.keys:
        if type(key) is not int or not 0 <= key <= _LARGEST:
            raise InvalidQuery(f"{key!r} is no key: it must be an integer of 63 bits")


def check_seconds(seconds: float) -> None:
    """Raises InvalidQuery for what is no time for a lease."""
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise InvalidQuery(f"{seconds!r} seconds are no time for a lease")


def _check_stream(stream: str) -> None:
    if type(stream) is not str or not stream.isascii():
        _check_text(stream)
    if not 0 < stream.find("-") < len(stream) - 1:
        raise InvalidAppend(f"{stream!r} is no stream's name: it must read category-id")


def _check_head(head: HeadChange) -> None:
    _check_text(head.state)
    _check_text(head.name)
    _check_text(head.parent or "")
    _check_text(head.route)
    _check_integer(head.due_at or 0)
    _check_bytes(head.summary)


def _check_claim(claim: Claim) -> None:
    _check_text(claim.owner)
    if not 0 <= claim.seconds <= _LONGEST_SECONDS:
        raise InvalidAppend(f"{claim.seconds!r} seconds are no time for a lease")


def _check_bytes(value: bytes) -> None:
    # Exactly bytes: SQLite would store anything else as something that hashes differently.
    if type(value) is not bytes:
        raise InvalidAppend(f"bytes are needed, not {type(value).__name__}")


def _check_text(value: str) -> None:
    if type(value) is not str:
        raise InvalidAppend(f"text is needed, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidAppend(f"{value!r} cannot be stored: {error.reason}") from None


def _check_key(key: int) -> None:
    if type(key) is not int or not 0 <= key <= _LARGEST:
        raise InvalidAppend(f"{key!r} is no key: it must be an integer of 63 bits")


def _check_integer(value: int) -> None:
    if type(value) is not int or not _SMALLEST <= value <= _LARGEST:
        raise InvalidAppend(f"{value!r} is not an integer of 64 bits")
