-- Who alone may change a machine for a while. Of a nonce only its hash is kept.
CREATE TABLE leases (
    machine_id TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    nonce_hash TEXT NOT NULL,
    owner TEXT NOT NULL,
    description TEXT NOT NULL,
    version TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
