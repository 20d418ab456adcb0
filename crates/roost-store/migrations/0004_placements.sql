-- Which node has each machine that was asked for here, and what it is to be: one that vanishes
-- is made anew from this.
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
    is_leaving BIGINT NOT NULL,
    placed_at BIGINT NOT NULL
);
-- A worker sees to it for its own machines only.
CREATE UNIQUE INDEX placements_by_name ON placements (app_id, name);

-- Machines that must not be: another has taken their place, or they were removed while their
-- node did not answer. The node is told when it answers again.
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
