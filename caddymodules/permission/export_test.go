package permission

import (
	"log/slog"

	core "github.com/tenantgate/tenantgate/internal/permission"
)

// Start makes the handler ready with a table that no app provides.
func (h *Handler) Start(table *core.Table, logger *slog.Logger) {
	h.logger = logger
	h.start(table)
}
