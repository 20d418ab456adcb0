-- Custom host names of apps, each with its certificate. `source` is `acme` or `custom`.
CREATE TABLE host_names (
    host TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    source TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- The certificate that serves, if one does: chain in PEM, key sealed.
    chain TEXT,
    sealed_key BLOB,
    -- Whether an authority issued it; an uploaded one is not ours to revoke.
    is_issued BOOLEAN NOT NULL DEFAULT FALSE,
    -- How the name is proven to the authority, and the order under way.
    method TEXT NOT NULL,
    sealed_order BLOB,
    -- When there is something to do; none when there never is.
    next_at BIGINT,
    -- Failures in a row, and until when the authority wants to be left alone.
    n_failures BIGINT NOT NULL DEFAULT 0,
    limited_until BIGINT
);
CREATE INDEX host_names_of_app ON host_names (app_id);
CREATE INDEX host_names_due ON host_names (next_at);
-- What came of the last attempts to get a certificate.
CREATE TABLE certificate_attempts (
    host TEXT NOT NULL REFERENCES host_names (host) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    method TEXT NOT NULL,
    outcome TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (host, at)
);
-- Certificates that are to be revoked.
CREATE TABLE revocations (
    chain TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    n_failures BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL
);
-- Accounts with authorities, by the URL of the directory.
CREATE TABLE acme_accounts (
    directory TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    created_at BIGINT NOT NULL
);
