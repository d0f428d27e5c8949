-- `route` says which runners may claim the stream; empty: whoever serves its name.
CREATE TABLE heads (
    id INTEGER PRIMARY KEY,
    stream TEXT NOT NULL UNIQUE,
    category TEXT NOT NULL,
    state TEXT NOT NULL,
    name TEXT NOT NULL,
    due_at INTEGER,
    parent TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    anchor_version INTEGER NOT NULL,
    anchor_hash BLOB NOT NULL,
    owner TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    claimable_at INTEGER GENERATED ALWAYS AS (max(due_at, lease_until)) VIRTUAL,
    summary BLOB NOT NULL
    , route TEXT NOT NULL DEFAULT '');

CREATE INDEX heads_newest ON heads (category);

CREATE INDEX heads_by_state ON heads (category, state);

-- Only heads that are due at some time: finished and waiting ones cost a claim nothing.
CREATE INDEX heads_claimable ON heads (category, name, route, claimable_at) WHERE due_at IS NOT NULL;

-- Few heads have a parent: the others cost this index nothing.
CREATE INDEX heads_by_parent ON heads (parent) WHERE parent IS NOT NULL;

-- Few heads have a route and are due: the others cost this index nothing.
CREATE INDEX heads_by_route ON heads (route, claimable_at)
WHERE route != '' AND due_at IS NOT NULL;

-- A rowid table with integer stream ids: a key that leads with the stream's name writes one page for
-- each event of a group commit.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    version INTEGER NOT NULL,
    type TEXT NOT NULL,
    schema INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    -- Set when the payload was erased, so that the chain still verifies.
    payload_digest BLOB,
    payload BLOB,
    key INTEGER,
    UNIQUE (stream, version)
);

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are never changed');
END;

CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are never deleted');
END;

CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    codec TEXT NOT NULL,
    size INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- Counts the commits whose outcome had to be read back; writing it makes the answer final.
CREATE TABLE settlements (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    settled INTEGER NOT NULL
);

INSERT INTO settlements VALUES (1, 0);

-- What an event may be looked up by. A table beside the events, filled in bulk: an index on them would
-- cost every commit a page of its own. `indexed` says up to which position it is complete.
CREATE TABLE event_keys (
    key INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;

CREATE TABLE indexed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL
);

INSERT INTO indexed VALUES (1, 0);
