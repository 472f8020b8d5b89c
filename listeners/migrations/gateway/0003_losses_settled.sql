-- What gateway.loss_seq said when it was last dealt with, and the transactions that ran then: one that has not been
-- logged may still commit.
ALTER TABLE gateway.position ADD COLUMN losses_settled text NOT NULL DEFAULT '1false';
