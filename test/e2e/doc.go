// Package e2e drives the built binaries as a user does: real processes, real
// ports, real files.
package e2e
