-- What gateway.loss_seq said when everybody had ended who may have moved it: until then a transaction that was not
-- logged may still commit.
ALTER TABLE gateway.position ADD COLUMN losses_settled text NOT NULL DEFAULT '1false';
