-- A control database of schema version 8: see ../golden.rs.
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES (1,'control','2026-11-23 11:48:47',1,X'64A4BD157AA2CEA1AB7FEDF1AD955EBA4A6F96BA91D33AD5B677030C45A1BA6D047B33BBDC7EFD0590D92F47F2056443',7734112);
INSERT INTO _sqlx_migrations VALUES (2,'deletion','2026-11-23 11:48:47',1,X'F0A635F40C08FA2E7CD9D7074E82EB720523D070ECC7F5413673CB7A755DCD86C4E6FEB74EB8C15F820A8D315366D0DA',3718617);
INSERT INTO _sqlx_migrations VALUES (3,'runs','2026-11-23 11:48:47',1,X'A792FED038CE012DFE4739D777F7D378C496F79DFDC585AA5644EFB3B91B8593DDB342485DC7C634186CDE9026722AC4',3975539);
INSERT INTO _sqlx_migrations VALUES (4,'placements','2026-11-23 11:48:47',1,X'C655F81A016900386EF488A90C0C931790DDD4527B1F73823B7C33B7503F4ACE25F63127E498C18206DD8EDE5EB2ED7C',5618248);
INSERT INTO _sqlx_migrations VALUES (5,'wishes','2026-11-23 11:48:47',1,X'D0B06871996D6AFC67AF1298E7CA5741B9BBB8164AA1372F071F5090606A92267743B71EA0B5695D5DF1DBB87E9466AC',7607423);
INSERT INTO _sqlx_migrations VALUES (6,'host names','2026-11-23 11:48:47',1,X'174FCF9977C1B4A181A397F4AC652DEFEDA4E8BA0FF73691118B93D553C45FE01395E6675A7CE3A574C10AD6A0C726E4',3993415);
INSERT INTO _sqlx_migrations VALUES (7,'canary','2026-11-23 11:48:47',1,X'5C4E201C92531C7C10CDE9C20ED89606304DB45171C89E11F17C8074EA98F8FD7BC5BE9C63D323C37DB679D273B639DB',7993442);
INSERT INTO _sqlx_migrations VALUES (8,'addresses','2026-11-23 11:48:47',1,X'81DBB6AC40AD37D90A10BD72A12DCD9149227F567B94D87EDE8B6C858ADD3F8AFDE18DF449F9AAFCC7C460C4CA3D2291',4136882);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO tokens VALUES ('tok_1','ci','5555555555555555555555555555555555555555555555555555555555555555','deploy:web',1700000000000);
CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    current_release BIGINT,
    next_release BIGINT NOT NULL DEFAULT 1,
    secrets_version BIGINT NOT NULL DEFAULT 0
, deleting_at BIGINT);
INSERT INTO apps VALUES ('app_1','web',1700000000000,1,3,1,NULL);
INSERT INTO apps VALUES ('app_2','api',1700000000000,1,2,0,NULL);
INSERT INTO apps VALUES ('app_3','old',1700000000000,NULL,2,0,NULL);
INSERT INTO apps VALUES ('app_4','new',1700000000000,NULL,2,0,NULL);
CREATE TABLE releases (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    image TEXT NOT NULL,
    image_digest TEXT,
    config TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (app_id, version)
);
INSERT INTO releases VALUES ('rel_1','app_1',1,'hello','sha256:7777777777777777777777777777777777777777777777777777777777777777','{"image":"hello:1"}','golden','succeeded',1700000000000);
INSERT INTO releases VALUES ('rel_2','app_1',2,'hello','sha256:7777777777777777777777777777777777777777777777777777777777777777','{"image":"hello:2"}','golden','running',1700000000000);
INSERT INTO releases VALUES ('rel_3','app_2',1,'hello','sha256:7777777777777777777777777777777777777777777777777777777777777777','{"image":"hello:3"}','golden','succeeded',1700000000000);
INSERT INTO releases VALUES ('rel_4','app_3',1,'hello','sha256:7777777777777777777777777777777777777777777777777777777777777777','{"image":"hello:4"}','golden','running',1700000000000);
INSERT INTO releases VALUES ('rel_5','app_4',1,'hello','sha256:7777777777777777777777777777777777777777777777777777777777777777','{"image":"hello:5"}','golden','pending',1700000000000);
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    release_version BIGINT NOT NULL,
    status TEXT NOT NULL,
    batches TEXT NOT NULL,
    wait_timeout_ms BIGINT NOT NULL,
    error TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
, canary TEXT);
INSERT INTO deployments VALUES ('dep_00000000000000000000000001','app_1',1,'succeeded','[[0],[1]]',60000,NULL,1700000000000,1700000000000,'{"config":{"percent":10,"by_client":false,"header":null,"regions":[],"wait":60,"requests":100,"more_errors":0.05,"times_slower":2.0},"judgement":{"passed":true,"reason":"golden","watched_ms":60000,"old":{"release":1,"requests":7,"errors":1,"p50_ms":1.5,"p95_ms":null},"new":{"release":2,"requests":7,"errors":1,"p50_ms":1.5,"p95_ms":null}}}');
INSERT INTO deployments VALUES ('dep_00000000000000000000000002','app_1',2,'running','[[0],[1]]',60000,NULL,1700000000000,NULL,NULL);
INSERT INTO deployments VALUES ('dep_00000000000000000000000003','app_2',1,'retiring','[[0]]',60000,NULL,1700000000000,NULL,NULL);
INSERT INTO deployments VALUES ('dep_00000000000000000000000004','app_3',1,'undoing','[[0]]',60000,'{"code":"machine-exited","message":"machine ended","hint":null,"machine":null,"log_tail":[],"listening":[]}',1700000000000,NULL,NULL);
INSERT INTO deployments VALUES ('dep_00000000000000000000000005','app_4',1,'pending','[[0]]',60000,NULL,1700000000000,NULL,NULL);
CREATE TABLE deployment_slots (
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    idx BIGINT NOT NULL,
    old_machine TEXT,
    old_ran BIGINT NOT NULL,
    makes_new BIGINT NOT NULL,
    new_machine TEXT,
    phase TEXT NOT NULL,
    PRIMARY KEY (deployment_id, idx)
);
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000001',0,NULL,0,1,'00000000000001','shifted');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000001',1,NULL,0,1,'00000000000002','shifted');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000002',0,'00000000000001',1,1,'00000000000003','shifted');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000002',1,'00000000000002',1,1,'00000000000004','created');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000003',0,NULL,0,1,NULL,'planned');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000004',0,NULL,0,1,NULL,'planned');
INSERT INTO deployment_slots VALUES ('dep_00000000000000000000000005',0,NULL,0,1,NULL,'planned');
CREATE TABLE deployment_steps (
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    name TEXT NOT NULL,
    machine TEXT,
    status TEXT NOT NULL,
    message TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, seq)
);
INSERT INTO deployment_steps VALUES ('dep_00000000000000000000000001',1,'plan',NULL,'done','as planned',1700000000000);
INSERT INTO deployment_steps VALUES ('dep_00000000000000000000000001',2,'finish',NULL,'done','as planned',1700000000000);
CREATE TABLE secrets (
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,
    digest TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, name)
);
INSERT INTO secrets VALUES ('app_1','KEY',X'010203','d',1700000000000,1700000000000);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    outcome TEXT,
    expires_at BIGINT NOT NULL
);
CREATE TABLE runs (
    -- The order in which runs were recorded: the clock may be set back.
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    version INTEGER NOT NULL,
    subject TEXT NOT NULL,
    key TEXT UNIQUE,
    parent TEXT REFERENCES runs (id) ON DELETE CASCADE,
    cause TEXT NOT NULL,
    params TEXT NOT NULL,
    status TEXT NOT NULL,
    turn TEXT,
    reason TEXT,
    cancel_at_ms INTEGER,
    cancel_turn TEXT,
    cancel_reason TEXT,
    is_past_point INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    epoch INTEGER NOT NULL DEFAULT 0,
    holder TEXT,
    lease_until_ms INTEGER,
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO runs VALUES (1,'run_00000000010000000000000001','deploy',1,'app/app_1','dep_00000000000000000000000001',NULL,'{}','{"app":"app_1","deployment":"dep_00000000000000000000000001"}','queued',NULL,NULL,NULL,NULL,NULL,0,1700000000000,NULL,NULL,0,NULL,NULL,1);
INSERT INTO runs VALUES (2,'run_00000000010000000000000002','deploy',1,'app/app_1','dep_00000000000000000000000002',NULL,'{}','{"app":"app_1","deployment":"dep_00000000000000000000000002"}','queued',NULL,NULL,NULL,NULL,NULL,0,1700000000000,NULL,NULL,0,NULL,NULL,2);
INSERT INTO runs VALUES (3,'run_00000000010000000000000003','deploy',1,'app/app_2','dep_00000000000000000000000003',NULL,'{}','{"app":"app_2","deployment":"dep_00000000000000000000000003"}','queued',NULL,NULL,NULL,NULL,NULL,0,1700000000000,NULL,NULL,0,NULL,NULL,3);
INSERT INTO runs VALUES (4,'run_00000000010000000000000004','deploy',1,'app/app_3','dep_00000000000000000000000004',NULL,'{}','{"app":"app_3","deployment":"dep_00000000000000000000000004"}','queued',NULL,NULL,NULL,NULL,NULL,0,1700000000000,NULL,NULL,0,NULL,NULL,4);
INSERT INTO runs VALUES (5,'run_00000000010000000000000005','deploy',1,'app/app_4','dep_00000000000000000000000005',NULL,'{}','{"app":"app_4","deployment":"dep_00000000000000000000000005"}','queued',NULL,NULL,NULL,NULL,NULL,0,1700000000000,NULL,NULL,0,NULL,NULL,5);
CREATE TABLE run_steps (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    step TEXT NOT NULL,
    direction TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    outcome TEXT,
    reason TEXT,
    output TEXT,
    retry_at_ms INTEGER,
    PRIMARY KEY (run_id, seq)
) STRICT;
CREATE TABLE run_revision (newest INTEGER NOT NULL) STRICT;
INSERT INTO run_revision VALUES (5);
CREATE TABLE placements (
    -- Of the request for it; the worker is asked with `attempt` beside it.
    request_id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    region TEXT NOT NULL,
    config TEXT NOT NULL,
    -- The release that a deployment made it for.
    release_version BIGINT,
    -- Whether it is made anew when it vanishes.
    is_kept BIGINT NOT NULL,
    node TEXT NOT NULL,
    why TEXT NOT NULL,
    -- Grows each time that another node is asked.
    attempt BIGINT NOT NULL,
    -- Once the node has answered.
    machine TEXT UNIQUE,
    -- Whether it rested when its node was last asked.
    rests BIGINT NOT NULL,
    -- Whether its removal was asked for, and the answer is not known.
    placed_at BIGINT NOT NULL
, version TEXT, is_cordoned BIGINT NOT NULL DEFAULT 0, leaving_since BIGINT);
INSERT INTO placements VALUES ('r1','app_1','one','local','{"image":"hello:1"}',1,1,'node_00000000000000000000000001','the only one',0,'00000000000001',0,1700000000000,NULL,1,1700000000000);
INSERT INTO placements VALUES ('r2','app_1','two','local','{"image":"hello:1"}',1,1,'node_00000000000000000000000002','the only one',1,NULL,0,1700000000000,NULL,0,NULL);
CREATE TABLE fences (
    node TEXT NOT NULL,
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Unknown when the answer to its creation was lost.
    machine TEXT,
    why TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (node, app, name)
);
INSERT INTO fences VALUES ('node_00000000000000000000000001','web','two',NULL,'the answer was lost',1700000000000);
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
INSERT INTO host_names VALUES ('www.example.com','app_1','custom',1700000000000,'chain',X'040506',0,'http-01',NULL,NULL,0,NULL);
CREATE TABLE certificate_attempts (
    host TEXT NOT NULL REFERENCES host_names (host) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    method TEXT NOT NULL,
    outcome TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (host, at)
);
CREATE TABLE revocations (
    chain TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    n_failures BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT NOT NULL
);
CREATE TABLE acme_accounts (
    directory TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO addresses VALUES ('192.0.2.9','app_1','v4',1700000000000);
CREATE INDEX deployments_by_app ON deployments (app_id, created_at);
CREATE UNIQUE INDEX deployments_unfinished ON deployments (app_id) WHERE finished_at IS NULL;
CREATE INDEX runs_by_subject ON runs (subject, ordinal);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_by_revision ON runs (revision);
CREATE INDEX runs_unfinished ON runs (ordinal) WHERE ended_ms IS NULL;
CREATE UNIQUE INDEX runs_active ON runs (subject) WHERE status IN ('running', 'undoing');
CREATE UNIQUE INDEX placements_by_name ON placements (app_id, name);
CREATE INDEX host_names_of_app ON host_names (app_id);
CREATE INDEX host_names_due ON host_names (next_at);
CREATE INDEX addresses_of_app ON addresses (app_id);
COMMIT;
