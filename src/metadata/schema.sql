-- The format of a plywood store's metadata. `PRAGMA user_version` is its number; a change of meaning gets a new one.
-- Times are nanoseconds since 1970-01-01 UTC.

-- One row: what the store is.
CREATE TABLE store (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    backend    TEXT    NOT NULL,
    style      TEXT    NOT NULL,            -- how the backend writes trees; an overlay's `trusted` or `user`, else empty
    created_by TEXT    NOT NULL,
    created    INTEGER NOT NULL,
    boot       TEXT    NOT NULL DEFAULT ''  -- the boot in which leftovers were last looked for
) STRICT;

-- A lease keeps what an operation made until it is named elsewhere. Without an expiry it lives as long as somebody holds the lock
-- on its file in `locks/`.
CREATE TABLE leases (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    UNIQUE,
    created INTEGER NOT NULL,
    expires INTEGER
) STRICT;

CREATE TABLE trees (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- the directory's name; never used twice
    state   TEXT    NOT NULL CHECK (state IN ('building', 'writable', 'frozen', 'empty')),
    lease   INTEGER REFERENCES leases (id) ON DELETE RESTRICT,  -- of a building tree: who is at it
    backend TEXT    NOT NULL,
    diff_id TEXT,                               -- the layer it was unpacked from; none for a committed container
    ids     TEXT,                               -- what became of its owners
    facts   BLOB,                               -- what it asked of its parent, with the answers
    root    TEXT,                               -- the layer's entry for the root directory
    cut     INTEGER NOT NULL DEFAULT 0,         -- the layer hides everything below
    inodes  INTEGER NOT NULL DEFAULT 0,
    bytes   INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'building') = (lease IS NOT NULL))
) STRICT;
CREATE INDEX trees_by_diff_id ON trees (diff_id, ids) WHERE diff_id IS NOT NULL;
CREATE INDEX trees_by_lease ON trees (lease) WHERE lease IS NOT NULL;

CREATE TABLE snapshots (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT    NOT NULL UNIQUE,
    kind     TEXT    NOT NULL CHECK (kind IN ('committed', 'active', 'view')),
    parent   INTEGER REFERENCES snapshots (id) ON DELETE RESTRICT,
    tree     INTEGER NOT NULL REFERENCES trees (id) ON DELETE RESTRICT,
    root     TEXT    NOT NULL,                  -- attributes of its root directory; of an active one when it was made
    diff_id  TEXT,
    chain_id TEXT    CHECK (chain_id IS NULL OR (chain_id = name AND kind = 'committed' AND diff_id IS NOT NULL)),
    inodes   INTEGER,                           -- of a committed one alone
    bytes    INTEGER,
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    CHECK ((kind = 'committed') = (inodes IS NOT NULL AND bytes IS NOT NULL))
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent) WHERE parent IS NOT NULL;
CREATE INDEX snapshots_by_tree ON snapshots (tree);
CREATE INDEX snapshots_by_chain_id ON snapshots (chain_id) WHERE chain_id IS NOT NULL;

CREATE TABLE labels (
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    PRIMARY KEY (snapshot, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    digest     TEXT    PRIMARY KEY,
    size       INTEGER NOT NULL,
    media_type TEXT    NOT NULL,
    diff_id    TEXT,                            -- of a layer: the digest of what it decompresses to, once that is known
    created    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_by_diff_id ON blobs (diff_id) WHERE diff_id IS NOT NULL;

CREATE TABLE images (
    reference   TEXT    PRIMARY KEY,
    target      TEXT    NOT NULL,               -- descriptor of what was named: an index or a manifest
    manifest    TEXT    NOT NULL,               -- descriptor of the manifest that was chosen
    config      TEXT    NOT NULL,               -- descriptor of its config
    platform    TEXT    NOT NULL,
    annotations TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    updated     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every blob that an image needs, its layers' included where these are kept.
CREATE TABLE image_blobs (
    reference TEXT NOT NULL REFERENCES images (reference) ON DELETE CASCADE ON UPDATE CASCADE,
    digest    TEXT NOT NULL REFERENCES blobs (digest) ON DELETE RESTRICT,
    PRIMARY KEY (reference, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blobs_by_digest ON image_blobs (digest);

CREATE TABLE image_layers (
    reference  TEXT    NOT NULL REFERENCES images (reference) ON DELETE CASCADE ON UPDATE CASCADE,
    position   INTEGER NOT NULL,                -- from 0, the lowest
    descriptor TEXT    NOT NULL,
    diff_id    TEXT    NOT NULL,
    snapshot   INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE RESTRICT,
    PRIMARY KEY (reference, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_by_snapshot ON image_layers (snapshot);

CREATE TABLE leased_snapshots (
    lease    INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    PRIMARY KEY (lease, snapshot)
) STRICT, WITHOUT ROWID;
CREATE INDEX leased_snapshots_by_snapshot ON leased_snapshots (snapshot);

CREATE TABLE leased_trees (
    lease INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    tree  INTEGER NOT NULL REFERENCES trees (id) ON DELETE CASCADE,
    PRIMARY KEY (lease, tree)
) STRICT, WITHOUT ROWID;
CREATE INDEX leased_trees_by_tree ON leased_trees (tree);

CREATE TABLE leased_blobs (
    lease  INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    digest TEXT    NOT NULL REFERENCES blobs (digest) ON DELETE CASCADE,
    PRIMARY KEY (lease, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX leased_blobs_by_digest ON leased_blobs (digest);

-- What has no row any more, but may still have bytes. A tree's number never comes back; a blob's digest may.
CREATE TABLE trash (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    tree INTEGER UNIQUE,
    blob TEXT    UNIQUE,
    CHECK ((tree IS NULL) <> (blob IS NULL))
) STRICT;
