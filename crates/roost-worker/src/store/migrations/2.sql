-- The rung that a machine was launched on last; whether a snapshot of it is
-- kept; what ended it. Before this version there were containers only.
ALTER TABLE machines ADD COLUMN rung TEXT;
ALTER TABLE machines ADD COLUMN has_snapshot INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN exit_cause TEXT;
UPDATE machines SET rung = 'container' WHERE launched_generation > 0;
