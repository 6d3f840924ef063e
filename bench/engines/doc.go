// Package engines compares the permission table with general authorization
// engines as Go libraries: casbin, Open Policy Agent and Cedar decide on the
// very same table. It is a module of its own, so that Tenantgate depends on
// none of them. It holds tests only:
//
//	cd bench/engines && go test -bench . -cpu 1 -timeout 1h
//
// Before anything is timed, all engines must give the same answers. With
// -short the largest table is left out.
package engines
