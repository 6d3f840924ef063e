package tenant

import (
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/database"
	"github.com/tenantgate/tenantgate/internal/identity"
)

// dashboardBody is a tenant at a glance.
type dashboardBody struct {
	Tenant struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	} `json:"tenant"`
	Members            int `json:"members"`
	Roles              int `json:"roles"`
	PendingInvitations int `json:"pending_invitations"`
	Notes              int `json:"notes"`
}

// noteAdded is the audit action of a note.
const noteAdded = "dashboard.note_added"

const selectDashboard = `SELECT t.id, t.name,
		(SELECT COUNT(*) FROM memberships WHERE tenant_id = $1),
		(SELECT COUNT(*) FROM roles WHERE tenant_id = $1),
		(SELECT COUNT(*) FROM invitations WHERE tenant_id = $1 AND status = 'pending' AND expires_at > $2),
		(SELECT COUNT(*) FROM audit_events WHERE tenant_id = $1 AND action = $3)
	FROM tenants t WHERE t.id = $1`

// dashboard answers GET /api/permissions/dashboard/, the page of the demo
// product abc: what the caller's tenant has.
func (s *Service) dashboard(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var b dashboardBody
	db := s.config.DB
	err := db.Reader().QueryRowContext(r.Context(), selectDashboard, c.TenantID, db.Now().UnixMilli(), noteAdded).
		Scan(&b.Tenant.ID, &b.Tenant.Name, &b.Members, &b.Roles, &b.PendingInvitations, &b.Notes)
	if err != nil {
		return fmt.Errorf("dashboard: %w", found(err))
	}
	return server.WriteJSON(w, http.StatusOK, b)
}

// noteOnDashboard answers POST /api/permissions/dashboard/: the note becomes an
// event of the tenant's audit log.
func (s *Service) noteOnDashboard(w http.ResponseWriter, r *http.Request, c server.Caller) error {
	var in struct {
		Note string `json:"note"`
	}
	if err := server.Decode(r, &in); err != nil {
		return err
	}
	var f fault
	switch {
	case in.Note == "":
		f.required("/note")
	case utf8.RuneCountInString(in.Note) > maxNote:
		f.add("/note", "too-long", "Use at most "+strconv.Itoa(maxNote)+" characters.")
	case !printable(in.Note):
		f.add("/note", "invalid", "Use one line of visible characters.")
	}
	if err := f.problem(); err != nil {
		return err
	}
	ctx := r.Context()
	err := s.config.DB.InTx(ctx, func(tx *database.Tx) error { // no right changes: the gateways need not know
		return identity.RecordAudit(ctx, tx, identity.AuditEvent{
			TenantID: c.TenantID, ActorID: c.UserID, Action: noteAdded, Target: target("tenant", c.TenantID),
			Detail: map[string]string{"note": in.Note}, RequestIP: c.IP, TraceID: c.TraceID,
		})
	})
	if err != nil {
		return fmt.Errorf("dashboard note: %w", err)
	}
	return server.WriteJSON(w, http.StatusCreated, map[string]string{"note": in.Note, "trace_id": c.TraceID})
}
