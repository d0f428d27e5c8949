-- Which runners may claim the stream; empty: whoever serves its name.
ALTER TABLE heads ADD COLUMN route TEXT NOT NULL DEFAULT '';

DROP INDEX heads_claimable;

-- Only heads that are due at some time: finished and waiting ones cost a claim nothing.
CREATE INDEX heads_claimable ON heads (category, name, route, claimable_at) WHERE due_at IS NOT NULL;

-- Few heads have a route and are due: the others cost this index nothing.
CREATE INDEX heads_by_route ON heads (route, claimable_at)
WHERE route != '' AND due_at IS NOT NULL;
