-- The number of the last beat that Redis has taken and published, as the relay learned it. Written with the next
-- beat, so that a replica that Redis does not reach can tell by Postgres alone whether it reaches the others.
ALTER TABLE gateway.canary ADD COLUMN acknowledged bigint NOT NULL DEFAULT 0;
