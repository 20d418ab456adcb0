-- Addresses that are one app's alone. `kind` is `v4` or `v6`: of the pool that the node was given.
CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX addresses_of_app ON addresses (app_id);
