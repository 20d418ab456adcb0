-- An app that is being deleted takes no new machines and deployments.
ALTER TABLE apps ADD COLUMN deleting_at BIGINT;

-- Rows without an outcome were requests under way; only answered ones are kept now.
DELETE FROM idempotency WHERE outcome IS NULL;
