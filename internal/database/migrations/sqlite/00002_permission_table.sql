-- +goose Up
-- The built-in owner of a tenant: may do everything in it but run the installation, and can't be edited away. Its rights stand
-- nowhere: they follow from the kind.
ALTER TABLE roles ADD COLUMN kind TEXT NOT NULL DEFAULT 'custom' CHECK (kind IN ('custom', 'owner'));
CREATE UNIQUE INDEX roles_one_owner ON roles (tenant_id) WHERE kind = 'owner';
INSERT INTO roles (tenant_id, name, kind, created_at, updated_at)
    SELECT t.id, CASE WHEN NOT EXISTS (SELECT 1 FROM roles r WHERE r.tenant_id = t.id AND r.name = 'Owner') THEN 'Owner'
            WHEN NOT EXISTS (SELECT 1 FROM roles r WHERE r.tenant_id = t.id AND r.name = 'Built-in owner') THEN 'Built-in owner'
            ELSE 'Built-in owner ' || t.id END,
        'owner', t.updated_at, t.updated_at
    FROM tenants t;

-- A role holds what its parents hold. No cycles: whoever writes checks that. A role that others inherit from can't be deleted.
CREATE TABLE role_parents (
    tenant_id INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    role_id   INTEGER NOT NULL,
    parent_id INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, role_id, parent_id),
    CHECK (role_id <> parent_id),
    FOREIGN KEY (tenant_id, role_id) REFERENCES roles (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, parent_id) REFERENCES roles (tenant_id, id)
) WITHOUT ROWID;
CREATE INDEX role_parents_parent ON role_parents (tenant_id, parent_id);

-- Grants of more than one permission, also of those that come later. NULL stands for every product, feature or action. The
-- feature tenantgate/platform is never meant.
CREATE TABLE role_wildcards (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    role_id    INTEGER NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    product_id INTEGER REFERENCES products (id) ON DELETE CASCADE,
    feature_id INTEGER REFERENCES features (id) ON DELETE CASCADE,
    action     TEXT,
    CHECK (feature_id IS NULL OR product_id IS NOT NULL AND action IS NULL)
);
CREATE UNIQUE INDEX role_wildcards_once ON role_wildcards (role_id, COALESCE(product_id, 0), COALESCE(feature_id, 0), COALESCE(action, ''));
CREATE INDEX role_wildcards_product ON role_wildcards (product_id);
CREATE INDEX role_wildcards_feature ON role_wildcards (feature_id);

-- What of the tenant changed: 'tenant' everything, 'roles' its roles, what they hold and its status, 'member' the one named by user_id.
ALTER TABLE permission_changes ADD COLUMN scope TEXT NOT NULL DEFAULT 'tenant' CHECK (scope IN ('tenant', 'roles', 'member'));
ALTER TABLE permission_changes ADD COLUMN user_id TEXT;
INSERT INTO permission_changes (tenant_id, changed_at) SELECT NULL, MAX(updated_at) FROM tenants HAVING COUNT(*) > 0;

-- +goose Down
ALTER TABLE permission_changes DROP COLUMN user_id;
ALTER TABLE permission_changes DROP COLUMN scope;
DROP TABLE role_wildcards;
DROP TABLE role_parents;
DROP INDEX roles_one_owner;
DELETE FROM memberships WHERE role_id IN (SELECT id FROM roles WHERE kind = 'owner');
DELETE FROM roles WHERE kind = 'owner';
ALTER TABLE roles DROP COLUMN kind;
