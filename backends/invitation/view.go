package invitation

import (
	"time"
)

// view is an invitation as the API shows it: never the token, never the
// addresses and hashes that are for the audit alone.
type view struct {
	ID             string    `json:"id"`
	Status         string    `json:"status"`
	Email          string    `json:"email"`
	Name           string    `json:"name"`
	Locale         string    `json:"locale"`
	Tenant         tenantRef `json:"tenant"`
	Role           *roleRef  `json:"role"`
	Inviter        userRef   `json:"inviter"`
	Metadata       metadata  `json:"metadata"`
	Delivery       delivery  `json:"delivery"`
	AcceptedUserID *string   `json:"accepted_user_id"`
	CreatedAt      string    `json:"created_at"`
	UpdatedAt      string    `json:"updated_at"`
	ExpiresAt      string    `json:"expires_at"`
	AcceptedAt     *string   `json:"accepted_at"`
	CancelledAt    *string   `json:"cancelled_at"`
}

// tenantRef names a tenant.
type tenantRef struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// roleRef names a role.
type roleRef struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// userRef names the inviter. The id is null when the user was deleted; the
// name stays.
type userRef struct {
	ID   *string `json:"id"`
	Name string  `json:"name"`
}

// metadata is what the inviter noted: the address that they say the wish came
// from, and a memo. Nothing is decided by it and it is not mailed.
type metadata struct {
	IPAddress string `json:"ip_address"`
	Note      string `json:"note"`
}

// delivery is what became of the mail. Status none: the inviter was given the
// token. Pending with an error: it is tried again at NextAttemptAt.
type delivery struct {
	Status        string  `json:"status"`
	Error         string  `json:"error,omitempty"`
	Sends         int     `json:"sends"`
	SentAt        *string `json:"sent_at"`
	NextAttemptAt *string `json:"next_attempt_at,omitempty"`
}

// listView is one page of invitations.
type listView struct {
	Items      []view  `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// view returns r as it is at nowMS.
func (r *record) view(nowMS int64) view {
	v := view{
		ID:     r.id,
		Status: r.effective(nowMS),
		Email:  r.email, Name: r.name, Locale: r.locale,
		Tenant:         tenantRef{r.tenantID, r.tenantName},
		Inviter:        userRef{optional(r.inviterID), r.inviterName},
		Metadata:       metadata{r.reportedIP, r.note},
		Delivery:       delivery{Status: r.delivery, Error: r.deliveryError, Sends: r.sendCount, SentAt: optionalTime(r.sentAt)},
		AcceptedUserID: optional(r.acceptedUserID),
		CreatedAt:      formatTime(r.createdAt),
		UpdatedAt:      formatTime(r.updatedAt),
		ExpiresAt:      formatTime(r.expiresAt),
		AcceptedAt:     optionalTime(r.acceptedAt),
		CancelledAt:    optionalTime(r.cancelledAt),
	}
	if r.handedOut {
		v.Delivery.Status = deliveryNone
	}
	if r.deliveryError != "" && v.Status == statusPending { // else nobody need know when it is due: it may wait for mails of other tenants
		v.Delivery.NextAttemptAt = optionalTime(r.nextAttempt)
	}
	if r.roleID != 0 {
		v.Role = &roleRef{r.roleID, r.roleName}
	}
	return v
}

// formatTime writes unix milliseconds as RFC 3339 in UTC.
func formatTime(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func optionalTime(ms int64) *string {
	if ms == 0 {
		return nil
	}
	return optional(formatTime(ms))
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
