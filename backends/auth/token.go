package auth

import (
	"fmt"
	"strconv"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/problem"
)

// accessToken signs a token for a user in a tenant.
func (s *Service) accessToken(userID string, in identity.Membership, sessionID string) (string, error) {
	keys := s.keys.Load()
	now := s.config.Clock.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss":       s.config.Issuer,
		"aud":       s.config.Audience,
		"sub":       userID,
		"tenant_id": strconv.FormatInt(in.TenantID, 10),
		"roles":     []string{in.RoleName},
		"iat":       now.Unix(),
		"exp":       now.Add(s.config.AccessTTL).Unix(),
		"jti":       identity.NewID(),
		"sid":       sessionID,
	})
	token.Header["kid"] = keys.kid
	signed, err := token.SignedString(keys.private)
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	return signed, nil
}

// The parts of responses.
type (
	userBody struct {
		ID    string `json:"id"`
		Email string `json:"email"`
		Name  string `json:"name"`
	}
	tenantBody struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	tokenBody struct {
		AccessToken  string     `json:"access_token"`
		TokenType    string     `json:"token_type"`
		ExpiresIn    int64      `json:"expires_in"` // seconds
		RefreshToken string     `json:"refresh_token"`
		User         userBody   `json:"user"`
		Tenant       tenantBody `json:"tenant"`
		Roles        []string   `json:"roles"`
	}
)

func newUserBody(u identity.User) userBody { return userBody{ID: u.ID, Email: u.Email, Name: u.Name} }

// tokens returns the answer to a login or refresh.
func (s *Service) tokens(user identity.User, in identity.Membership, sessionID, refreshToken string) (tokenBody, error) {
	access, err := s.accessToken(user.ID, in, sessionID)
	if err != nil {
		return tokenBody{}, err
	}
	return tokenBody{
		AccessToken: access, TokenType: "Bearer", ExpiresIn: int64(s.config.AccessTTL.Seconds()), RefreshToken: refreshToken,
		User: newUserBody(user), Tenant: tenantBody{ID: in.TenantID, Name: in.TenantName}, Roles: []string{in.RoleName},
	}, nil
}

// choose returns the active membership in the tenant that ref names by id or
// name, or in the user's first tenant if ref is empty. Names of digits only are
// not given to tenants, so a ref means one tenant.
func choose(memberships []identity.Membership, ref string) (identity.Membership, bool) {
	for _, m := range memberships {
		if m.TenantStatus == identity.StatusActive && (ref == "" || ref == m.TenantName || ref == strconv.FormatInt(m.TenantID, 10)) {
			return m, true
		}
	}
	return identity.Membership{}, false
}

// required returns the problem of a field that is missing.
func required(pointer string) problem.Field {
	return problem.Field{Pointer: pointer, Code: "required", Detail: "This field is required."}
}
