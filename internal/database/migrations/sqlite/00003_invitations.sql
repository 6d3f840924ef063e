-- +goose Up
-- What a tenant may do: how many members it may have, NULL for any number, and whom it invites. The lists are domains, separated by
-- commas; *.example.com stands for all below example.com. Empty allows all.
ALTER TABLE tenants ADD COLUMN seats INTEGER CHECK (seats > 0);
ALTER TABLE tenants ADD COLUMN allowed_domains TEXT NOT NULL DEFAULT '';
ALTER TABLE tenants ADD COLUMN denied_domains TEXT NOT NULL DEFAULT '';

-- locale is that of the mail. handed_out is 1 if the inviter was given the token and no mail goes out.
ALTER TABLE invitations ADD COLUMN locale TEXT NOT NULL DEFAULT '';
ALTER TABLE invitations ADD COLUMN handed_out INTEGER NOT NULL DEFAULT 0;

-- The outbox: invitations whose mail is not sent yet. Every attempt mails a token of its own, since none is stored. Whoever claims a
-- row moves due_at behind the time that an attempt may take; if they die, it comes due again.
CREATE TABLE invitation_mails (
    invitation_id TEXT    PRIMARY KEY NOT NULL REFERENCES invitations (id) ON DELETE CASCADE,
    attempts      INTEGER NOT NULL DEFAULT 0,
    actor_id      TEXT    NOT NULL,
    trace_id      TEXT    NOT NULL DEFAULT '',
    queued_at     INTEGER NOT NULL,
    due_at        INTEGER NOT NULL
);
CREATE INDEX invitation_mails_due ON invitation_mails (due_at);

-- What limits count, for as long as the longest window: one row for each use of a key, such as the mails to one address.
CREATE TABLE rate_uses (
    id  TEXT    PRIMARY KEY NOT NULL,
    key TEXT    NOT NULL,
    at  INTEGER NOT NULL
);
CREATE INDEX rate_uses_key ON rate_uses (key, at);
CREATE INDEX rate_uses_at ON rate_uses (at);

-- Answers to requests with an Idempotency-Key, written in the transaction of what they tell of.
CREATE TABLE idempotency_keys (
    tenant_id   INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    caller_id   TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL DEFAULT 0,
    location    TEXT    NOT NULL DEFAULT '',
    response    TEXT    NOT NULL DEFAULT '',
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, caller_id, route, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Events that the webhook's receiver has not taken yet, written in the transaction of what happened. due_at NULL: given up.
CREATE TABLE webhook_events (
    id         TEXT    PRIMARY KEY NOT NULL,
    type       TEXT    NOT NULL,
    tenant_id  INTEGER NOT NULL,
    payload    TEXT    NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT    NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    due_at     INTEGER
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
