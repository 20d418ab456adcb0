-- Runs of workflows and the attempts of their steps. Times are milliseconds
-- since the epoch. See crates/roost-fsm/src/record.rs for what each column means.

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

CREATE INDEX runs_by_subject ON runs (subject, ordinal);
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_by_revision ON runs (revision);
CREATE INDEX runs_unfinished ON runs (ordinal) WHERE ended_ms IS NULL;
-- One run at a time acts on a subject, whatever the callers do.
CREATE UNIQUE INDEX runs_active ON runs (subject) WHERE status IN ('running', 'undoing');

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

-- The newest revision that was given to a run.
CREATE TABLE run_revision (newest INTEGER NOT NULL) STRICT;
INSERT INTO run_revision (newest) VALUES (0);
