package invitation

import (
	"context"
	"maps"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/backends/webhook"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// The actors of audit rows about what no user did, and about what somebody did
// whom a token alone does not name.
const (
	systemActor  = "system"
	unknownActor = "unknown"
)

// announced are the events that the webhook is told of. The others are for the
// audit log alone.
var announced = map[string]bool{
	"invitation.created": true, "invitation.accepted": true, "invitation.cancelled": true, "invitation.expired": true,
	"invitation.delivery_failed": true,
}

// by is something that a caller did.
func by(caller server.Caller, action string, detail any) identity.AuditEvent {
	return identity.AuditEvent{ActorID: caller.UserID, Action: action, Detail: detail, RequestIP: caller.IP, TraceID: caller.TraceID}
}

// happened records an event of the tenant's invitation id in the audit log and,
// if the webhook is told of such, in its outbox: the invitation as it is now,
// and what more says.
func (s *Service) happened(ctx context.Context, tx *database.Tx, tenantID int64, id string, e identity.AuditEvent, more map[string]any) error {
	return happened(ctx, tx, s.config.Webhook, tenantID, id, e, more)
}

func happened(ctx context.Context, tx *database.Tx, hook *webhook.Outbox, tenantID int64, id string, e identity.AuditEvent, more map[string]any) error {
	e.TenantID, e.Target = tenantID, "invitation/"+id
	if err := identity.RecordAudit(ctx, tx, e); err != nil {
		return err
	}
	if hook == nil || !announced[e.Action] {
		return nil
	}
	inv, err := find(ctx, tx, tenantID, id)
	if err != nil {
		return err
	}
	data := map[string]any{"invitation": inv.view(tx.NowMS()), "actor_id": e.ActorID, "trace_id": e.TraceID}
	maps.Copy(data, more)
	return hook.Enqueue(ctx, tx, webhook.Event{Type: e.Action, TenantID: tenantID, Data: data})
}

// inTx is a transaction of the store. What it has put into the webhook's outbox
// goes out at once.
func (s *Service) inTx(ctx context.Context, f func(*database.Tx) error) error {
	err := s.config.DB.InTx(ctx, f)
	if err == nil {
		s.config.Webhook.Wake()
	}
	return err
}
