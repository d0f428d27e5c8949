ALTER TABLE events ADD COLUMN key INTEGER;

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
