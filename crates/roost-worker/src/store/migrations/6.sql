-- When a machine's schedule is due next, and how often it was so in vain.
ALTER TABLE machines ADD COLUMN due_ms INTEGER;
ALTER TABLE machines ADD COLUMN n_passed_over INTEGER NOT NULL DEFAULT 0;
CREATE INDEX machines_by_due ON machines (due_ms) WHERE due_ms IS NOT NULL;
