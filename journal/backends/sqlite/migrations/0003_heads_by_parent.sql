-- Few heads have a parent: the others cost this index nothing.
CREATE INDEX heads_by_parent ON heads (parent) WHERE parent IS NOT NULL;
