-- +goose Up
-- What a tenant may do: how many members it may have, NULL for any number, and whom it invites. The lists are domains, separated by
-- commas; *.example.com stands for all below example.com. Empty allows all.
ALTER TABLE tenants ADD COLUMN seats BIGINT CHECK (seats > 0);
ALTER TABLE tenants ADD COLUMN allowed_domains TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE tenants ADD COLUMN denied_domains TEXT COLLATE "C" NOT NULL DEFAULT '';

-- locale is that of the mail. handed_out is 1 if the inviter was given the token and no mail goes out.
ALTER TABLE invitations ADD COLUMN locale TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE invitations ADD COLUMN handed_out BIGINT NOT NULL DEFAULT 0;

-- The outbox: invitations whose mail is not sent yet. Every attempt mails a token of its own, since none is stored. Whoever claims a
-- row moves due_at behind the time that an attempt may take; if they die, it comes due again.
CREATE TABLE invitation_mails (
    invitation_id TEXT COLLATE "C" PRIMARY KEY NOT NULL REFERENCES invitations (id) ON DELETE CASCADE,
    attempts      BIGINT           NOT NULL DEFAULT 0,
    actor_id      TEXT COLLATE "C" NOT NULL,
    trace_id      TEXT COLLATE "C" NOT NULL DEFAULT '',
    queued_at     BIGINT           NOT NULL,
    due_at        BIGINT           NOT NULL
);
CREATE INDEX invitation_mails_due ON invitation_mails (due_at);

-- What limits count, for as long as the longest window: one row for each use of a key, such as the mails to one address.
CREATE TABLE rate_uses (
    id  TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    at  BIGINT           NOT NULL
);
CREATE INDEX rate_uses_key ON rate_uses (key, at);
CREATE INDEX rate_uses_at ON rate_uses (at);

-- Answers to requests with an Idempotency-Key, written in the transaction of what they tell of.
CREATE TABLE idempotency_keys (
    tenant_id   BIGINT           NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    caller_id   TEXT COLLATE "C" NOT NULL,
    route       TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA            NOT NULL,
    status      BIGINT           NOT NULL DEFAULT 0,
    location    TEXT COLLATE "C" NOT NULL DEFAULT '',
    response    TEXT COLLATE "C" NOT NULL DEFAULT '',
    expires_at  BIGINT           NOT NULL,
    PRIMARY KEY (tenant_id, caller_id, route, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Events that the webhook's receiver has not taken yet, written in the transaction of what happened. due_at NULL: given up.
CREATE TABLE webhook_events (
    id         TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    type       TEXT COLLATE "C" NOT NULL,
    tenant_id  BIGINT           NOT NULL,
    payload    TEXT COLLATE "C" NOT NULL,
    attempts   BIGINT           NOT NULL DEFAULT 0,
    last_error TEXT COLLATE "C" NOT NULL DEFAULT '',
    created_at BIGINT           NOT NULL,
    due_at     BIGINT
);
CREATE INDEX webhook_events_due ON webhook_events (due_at);

-- +goose Down
DROP TABLE webhook_events;
DROP TABLE idempotency_keys;
DROP TABLE rate_uses;
DROP TABLE invitation_mails;
ALTER TABLE invitations DROP COLUMN handed_out;
ALTER TABLE invitations DROP COLUMN locale;
ALTER TABLE tenants DROP COLUMN denied_domains;
ALTER TABLE tenants DROP COLUMN allowed_domains;
ALTER TABLE tenants DROP COLUMN seats;
