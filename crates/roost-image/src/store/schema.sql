-- What the store knows about its content. Times are milliseconds since 1970.

CREATE TABLE blobs (
    digest  TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    used_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Manifests and indexes among the blobs, with the media type they came with.
CREATE TABLE manifests (
    digest        TEXT PRIMARY KEY REFERENCES blobs (digest) ON DELETE CASCADE,
    media_type    TEXT NOT NULL,
    artifact_type TEXT,
    subject       TEXT,
    annotations   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX manifests_by_subject ON manifests (subject);

-- What a manifest needs: config, layers, manifests of an index.
CREATE TABLE edges (
    parent TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    child  TEXT NOT NULL,
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;

-- Unpacked layers, and which image needs which.
CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    used_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE image_layers (
    manifest TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    diff_id  TEXT NOT NULL,
    PRIMARY KEY (manifest, diff_id)
) STRICT, WITHOUT ROWID;

-- The built-in registry.
CREATE TABLE repository_manifests (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE repository_blobs (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL REFERENCES blobs (digest) ON DELETE CASCADE,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE tags (
    repository TEXT NOT NULL,
    tag        TEXT NOT NULL,
    digest     TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    PRIMARY KEY (repository, tag)
) STRICT, WITHOUT ROWID;

-- Who needs an image: `machine:ID`, `release:ID`.
CREATE TABLE owners (
    owner  TEXT PRIMARY KEY,
    digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
