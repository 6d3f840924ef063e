// Package migrations holds the SQL that makes and changes the schema, for each
// database system in a folder of its own. Files of the same number mean the
// same in both.
package migrations

import "embed"

// Files are the folders "sqlite" and "postgres" with files named
// <number>_<what>.sql, in the form of github.com/pressly/goose.
//
//go:embed sqlite/*.sql postgres/*.sql
var Files embed.FS
