package permission

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// logGrant writes the line of an allowed decision. The request's fields,
// permission and tenant_id among them, come with the context.
func (h *Handler) logGrant(r *http.Request, v verdict) {
	ctx := r.Context()
	if !h.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	h.logger.LogAttrs(ctx, slog.LevelInfo, "permission allowed", slog.String("user_id", v.who.UserID),
		slog.String("role", v.decision.Role()), slog.String("rule", v.decision.Rule()), slog.Int64("seq", v.seq))
}

// logRefusal writes the line of a denial, and in shadow mode of all that would
// have been refused.
func (h *Handler) logRefusal(r *http.Request, refused *refusal) {
	ctx := r.Context()
	if refused.quiet && !h.shadow || !h.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{slog.String("reason", string(refused.reason))}
	if who := refused.who; who != nil {
		setLogTenant(ctx, who.TenantID)
		attrs = append(attrs, slog.String("user_id", who.UserID))
		if refused.tenant != who.TenantID {
			attrs = append(attrs, slog.String("requested_tenant_id", refused.tenant))
		}
	}
	if role := refused.decision.Role(); role != "" {
		attrs = append(attrs, slog.String("role", role))
	}
	if refused.seq != 0 {
		attrs = append(attrs, slog.Int64("seq", refused.seq))
	}
	msg := "permission denied"
	if h.shadow {
		msg = "permission would be denied"
		attrs = append(attrs, slog.Bool("would_deny", true), slog.Int("would_status", refused.problem.Status))
	}
	h.logger.LogAttrs(ctx, slog.LevelInfo, msg, attrs...)
}

// setLogTenant makes the lines of the request name a tenant.
func setLogTenant(ctx context.Context, tenantID string) {
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok && tenantID != "" {
		extra.Set(zap.String("tenant_id", tenantID))
	}
}
