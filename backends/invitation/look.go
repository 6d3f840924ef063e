package invitation

import (
	"net/http"

	"github.com/tenantgate/tenantgate/backends/server"
	"github.com/tenantgate/tenantgate/internal/secret"
)

// lookBody is the body of POST /api/invitations/look/.
type lookBody struct {
	Token secret.String `json:"token"`
}

// lookView is what the holder of a live token may know before joining.
type lookView struct {
	Email         string        `json:"email"`
	Name          string        `json:"name"`
	Tenant        named         `json:"tenant"`
	Role          named         `json:"role"`
	Inviter       named         `json:"inviter"`
	ExpiresAt     string        `json:"expires_at"`
	AccountExists bool          `json:"account_exists"`
	Password      passwordRules `json:"password"`
}

// named is a thing whose id is nobody's business yet.
type named struct {
	Name string `json:"name"`
}

// passwordRules are the rules for a new password that a page can check.
type passwordRules struct {
	// MinLength counts code points of the NFKC form.
	MinLength int `json:"min_length"`
}

// look answers POST /api/invitations/look/: what the page shows before it asks
// for a password. It refuses what an accept would refuse whatever the password,
// hashes nothing and changes nothing. The token comes in the body, because logs
// have URLs.
func (s *Service) look(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	var body lookBody
	if err := server.Decode(r, &body); err != nil {
		return err
	}
	hash, err := s.takeToken(r, body.Token)
	if err != nil {
		return err
	}
	inv, account, err := s.examine(r.Context(), hash)
	if err != nil {
		return err
	}
	return server.WriteJSON(w, http.StatusOK, lookView{
		Email: inv.email, Name: plain(inv.name, maxName),
		Tenant: named{plain(inv.tenantName, maxName)}, Role: named{plain(inv.roleName, maxRole)}, Inviter: named{plain(inv.inviterName, maxName)},
		ExpiresAt: formatTime(inv.expiresAt), AccountExists: account.ID != "",
		Password: passwordRules{s.config.Passwords.Least()},
	})
}
