package permission

import (
	"log/slog"

	core "github.com/tenantgate/tenantgate/internal/permission"
)

// Start makes the handler ready with a table that no app provides.
func (h *Handler) Start(table *core.Table, logger *slog.Logger) {
	h.logger = logger
	if err := h.start(table); err != nil {
		panic(err)
	}
}

// LogAllowed sets the share of allowed decisions that get a line, and what draws
// lots.
func (h *Handler) LogAllowed(share float64, random func() float64) {
	h.logAllowed, h.random = share, random
}

// Start makes the handler ready with a table that no app provides.
func (a *Answers) Start(table *core.Table) { a.start(table) }

// ParseTarget and ParsePermission are what the fuzz tests call.
var (
	ParseTarget     = parseTarget
	ParsePermission = core.ParsePermission
)
