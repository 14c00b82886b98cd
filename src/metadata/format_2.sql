-- What format 2 adds to format 1. A new store is made of both; an older one gets this in one transaction when it is opened.

-- What `check` found damaged, until it is mended, found whole, or gone.
CREATE TABLE damaged_trees (
    tree   INTEGER PRIMARY KEY REFERENCES trees (id) ON DELETE CASCADE,
    found  INTEGER NOT NULL,
    reason TEXT    NOT NULL
) STRICT;

CREATE TABLE damaged_blobs (
    digest TEXT    PRIMARY KEY REFERENCES blobs (digest) ON DELETE CASCADE,
    found  INTEGER NOT NULL,
    reason TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Trees that mended ones took the place of, and the keys that may still have them mounted.
CREATE TABLE held_trees (
    tree     INTEGER NOT NULL REFERENCES trees (id) ON DELETE CASCADE,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    PRIMARY KEY (tree, snapshot)
) STRICT, WITHOUT ROWID;
CREATE INDEX held_trees_by_snapshot ON held_trees (snapshot);
