-- +goose Up
-- Times are unix milliseconds UTC. Ids of tenants, products, features and roles are small integers: they stand in every
-- snapshot. Ids of users are text: a UUIDv7, or the subject that an external identity provider gives its user.
CREATE TABLE tenants (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    status     TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

-- A user is global; a membership makes them part of a tenant. email_key is the canonical form that is compared (see identity.EmailKey).
CREATE TABLE users (
    id            TEXT    PRIMARY KEY NOT NULL,
    email         TEXT    NOT NULL,
    email_key     TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL DEFAULT '',
    password_hash TEXT,
    status        TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
);

-- Almost nobody is disabled: who is can be read at once, without looking at all users.
CREATE INDEX users_disabled ON users (id) WHERE status <> 'active';

CREATE TABLE products (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

-- actions is a comma-separated list of at most 16 names; every feature starts with read, write and delete.
CREATE TABLE features (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    actions    TEXT    NOT NULL DEFAULT 'read,write,delete',
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (product_id, name)
);

CREATE TABLE roles (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);

-- One role in each tenant; the composite key makes a role of another tenant impossible.
CREATE TABLE memberships (
    tenant_id  INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role_id    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, role_id) REFERENCES roles (tenant_id, id)
) WITHOUT ROWID;
CREATE INDEX memberships_user ON memberships (user_id);
CREATE INDEX memberships_role ON memberships (tenant_id, role_id);

CREATE TABLE role_feature_permissions (
    role_id    INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    feature_id INTEGER NOT NULL REFERENCES features (id) ON DELETE CASCADE,
    action     TEXT    NOT NULL,
    PRIMARY KEY (role_id, feature_id, action)
) WITHOUT ROWID;
CREATE INDEX role_feature_permissions_feature ON role_feature_permissions (feature_id);

-- One row with every change of the permission table, in the same transaction. tenant_id NULL: the catalogue of products and
-- features changed, so everything must be read again.
CREATE TABLE permission_changes (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER,
    changed_at INTEGER NOT NULL
);

CREATE TABLE audit_events (
    id         TEXT    PRIMARY KEY NOT NULL,
    tenant_id  INTEGER,
    actor_id   TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    detail     TEXT    NOT NULL DEFAULT '{}',
    request_ip TEXT    NOT NULL DEFAULT '',
    trace_id   TEXT    NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL
);
CREATE INDEX audit_events_tenant ON audit_events (tenant_id, created_at, id);

-- Signing keys of the auth service. The private key is PKCS #8 DER, sealed with AES-256-GCM when a key-encryption secret is set.
CREATE TABLE signing_keys (
    kid         TEXT    PRIMARY KEY NOT NULL,
    algorithm   TEXT    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('next', 'current', 'previous')),
    private_key BLOB    NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
);
CREATE UNIQUE INDEX signing_keys_state ON signing_keys (state);

-- One family per login. A refresh token that comes a second time revokes its family.
CREATE TABLE sessions (
    id         TEXT    PRIMARY KEY NOT NULL,
    user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    tenant_id  INTEGER REFERENCES tenants (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    token_hash BLOB    PRIMARY KEY NOT NULL,
    session_id TEXT    NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER
) WITHOUT ROWID;
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

-- States: pending -> accepted | cancelled | expired; the last three never change. expires_at is exclusive.
CREATE TABLE invitations (
    id               TEXT    PRIMARY KEY NOT NULL,
    tenant_id        INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    email            TEXT    NOT NULL,
    email_key        TEXT    NOT NULL,
    name             TEXT    NOT NULL DEFAULT '',
    note             TEXT    NOT NULL DEFAULT '',
    role_id          INTEGER REFERENCES roles (id) ON DELETE SET NULL,
    status           TEXT    NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'accepted', 'cancelled', 'expired')),
    token_hash       BLOB    UNIQUE,
    inviter_id       TEXT    REFERENCES users (id) ON DELETE SET NULL,
    inviter_name     TEXT    NOT NULL DEFAULT '',
    accepted_user_id TEXT    REFERENCES users (id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    reported_ip      TEXT    NOT NULL DEFAULT '',
    request_ip       TEXT    NOT NULL DEFAULT '',
    delivery         TEXT    NOT NULL DEFAULT 'pending' CHECK (delivery IN ('pending', 'sent', 'failed')),
    delivery_error   TEXT    NOT NULL DEFAULT '',
    send_count       INTEGER NOT NULL DEFAULT 0,
    version          INTEGER NOT NULL DEFAULT 1,
    expires_at       INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    sent_at          INTEGER,
    accepted_at      INTEGER,
    cancelled_at     INTEGER
);
CREATE UNIQUE INDEX invitations_one_pending ON invitations (tenant_id, email_key) WHERE status = 'pending';
CREATE INDEX invitations_list ON invitations (tenant_id, created_at DESC, id DESC);
CREATE INDEX invitations_expiry ON invitations (status, expires_at);

-- +goose Down
DROP TABLE invitations;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE signing_keys;
DROP TABLE audit_events;
DROP TABLE permission_changes;
DROP TABLE role_feature_permissions;
DROP TABLE memberships;
DROP TABLE roles;
DROP TABLE features;
DROP TABLE products;
DROP TABLE users;
DROP TABLE tenants;
