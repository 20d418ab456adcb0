-- Root file systems of VMs, and which image needs which.

CREATE TABLE root_images (
    id      TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    used_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE image_root_images (
    manifest   TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    root_image TEXT NOT NULL,
    PRIMARY KEY (manifest, root_image)
) STRICT, WITHOUT ROWID;
