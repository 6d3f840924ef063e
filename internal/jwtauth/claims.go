package jwtauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tenantgate/tenantgate/internal/identity"
)

// Bounds of what becomes part of an identity.
const (
	maxIDLength   = 255 // bytes of a user id, tenant id, role name or token id
	maxRoles      = 256
	maxNumberDate = 253402300799 // 9999-12-31T23:59:59Z in seconds
)

// ClaimNames says which claims hold the parts of an identity. A name that
// begins with "/" is a JSON pointer (RFC 6901) to a nested claim, such as
// "/realm_access/roles"; any other is the exact name of a member at the top.
type ClaimNames struct {
	// User is the claim with the user's id; "sub" if empty.
	User string
	// Tenant is the claim with the tenant's id; "tenant_id" if empty.
	Tenant string
	// Roles is the claim with the role names; "roles" if empty.
	Roles string
}

func (n ClaimNames) withDefaults() ClaimNames {
	if n.User == "" {
		n.User = "sub"
	}
	if n.Tenant == "" {
		n.Tenant = "tenant_id"
	}
	if n.Roles == "" {
		n.Roles = "roles"
	}
	return n
}

// claims is the payload of a token. The registered claims are decoded once,
// strictly, and handed to golang-jwt's validator through [jwt.Claims].
type claims struct {
	members                      map[string]any
	issuer, tokenID              string
	audience                     jwt.ClaimStrings
	expires, notBefore, issuedAt *jwt.NumericDate
}

// parseClaims decodes a payload. It says nothing about the claims' values.
func parseClaims(payload []byte) (*claims, *Error) {
	members, err := parseObject(payload)
	if err != nil {
		return nil, refuse(ReasonMalformed, fmt.Errorf("claims: %w", err))
	}
	c := &claims{members: members}
	if c.issuer, err = optionalString(members, "iss"); err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("iss: %w", err))
	}
	if c.tokenID, err = optionalString(members, "jti"); err == nil {
		err = checkID(c.tokenID)
	}
	if err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("jti: %w", err))
	}
	if c.audience, err = stringList(members["aud"]); err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("aud: %w", err))
	}
	if c.expires, err = numericDate(members["exp"]); err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("exp: %w", err))
	}
	if c.notBefore, err = numericDate(members["nbf"]); err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("nbf: %w", err))
	}
	if c.issuedAt, err = numericDate(members["iat"]); err != nil {
		return nil, refuse(ReasonInvalidClaim, fmt.Errorf("iat: %w", err))
	}
	return c, nil
}

// The methods of jwt.Claims. They can't fail: parseClaims has checked the types.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.expires, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.issuedAt, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.notBefore, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.issuer, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return c.audience, nil }

func (c *claims) GetSubject() (string, error) {
	subject, _ := c.members["sub"].(string)
	return subject, nil
}

// validate runs golang-jwt's validator and translates what it finds.
func (c *claims) validate(v *jwt.Validator) *Error {
	if c.expires == nil {
		return refuse(ReasonMissingClaim, errors.New("exp"))
	}
	if len(c.audience) == 0 {
		return refuse(ReasonMissingClaim, errors.New("aud"))
	}
	err := v.Validate(c)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenExpired):
		return errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return errEarly
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return refuse(ReasonWrongAudience, nil)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing): // an audience of one empty text
		return refuse(ReasonMissingClaim, err)
	}
	return refuse(ReasonInvalidClaim, err)
}

// principal reads the identity out of the claims.
func (c *claims) principal(names ClaimNames) (identity.Principal, *Error) {
	p := identity.Principal{Issuer: c.issuer, TokenID: c.tokenID, ExpiresAt: c.expires.Time}
	var err error
	if p.UserID, err = identifier(c.lookup(names.User)); err != nil {
		return p, refuse(ReasonInvalidClaim, fmt.Errorf("%s: %w", names.User, err))
	}
	if p.UserID == "" {
		return p, refuse(ReasonMissingClaim, errors.New(names.User))
	}
	if p.TenantID, err = identifier(c.lookup(names.Tenant)); err != nil {
		return p, refuse(ReasonInvalidClaim, fmt.Errorf("%s: %w", names.Tenant, err))
	}
	if p.Roles, err = roles(c.lookup(names.Roles)); err != nil {
		return p, refuse(ReasonInvalidClaim, fmt.Errorf("%s: %w", names.Roles, err))
	}
	return p, nil
}

// lookup returns the claim of that name, nil if there is none.
func (c *claims) lookup(name string) any {
	if !strings.HasPrefix(name, "/") {
		return c.members[name]
	}
	var value any = c.members
	for step := range strings.SplitSeq(name[1:], "/") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")]
	}
	return value
}

// identifier returns an id that is a string or an integer number, "" if it is
// absent or null.
func identifier(value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		if v == "" {
			return "", errors.New("empty")
		}
		return v, checkID(v)
	case json.Number:
		// Only the plain form: 1, 1.0 and 1e0 must not be three spellings of one id.
		n, err := strconv.ParseUint(v.String(), 10, 63)
		if err != nil || strconv.FormatUint(n, 10) != v.String() {
			return "", errors.New("not a whole number")
		}
		return v.String(), nil
	}
	return "", errors.New("neither a string nor a number")
}

// checkID refuses ids that would not survive as the value of a header: all
// but printable ASCII without a space at either end. Backends read other bytes
// in various ways, and CR or LF would begin a new header (CWE-113).
func checkID(id string) error {
	if len(id) > maxIDLength {
		return fmt.Errorf("longer than %d bytes", maxIDLength)
	}
	for i := range len(id) {
		if id[i] < ' ' || id[i] > '~' {
			return errors.New("not printable ASCII")
		}
	}
	if strings.TrimSpace(id) != id {
		return errors.New("a space at the beginning or end")
	}
	return nil
}

// roles returns the role names of an array of strings or a single string.
func roles(value any) ([]string, error) {
	names, err := stringList(value)
	if err != nil {
		return nil, err
	}
	if len(names) > maxRoles {
		return nil, fmt.Errorf("more than %d", maxRoles)
	}
	for _, name := range names {
		if err := checkRole(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// checkRole refuses names that a reader of the comma-separated header X-Roles
// could take for others. Letters of any script are fine: tenants name their
// own roles.
func checkRole(name string) error {
	switch {
	case name == "" || len(name) > maxIDLength:
		return fmt.Errorf("a name is empty or longer than %d bytes", maxIDLength)
	case strings.Contains(name, ","):
		return errors.New("a name has a comma")
	case strings.TrimSpace(name) != name:
		return errors.New("a name has a space at the beginning or end")
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return errors.New("a name has a character that can't be printed")
		}
	}
	return nil
}

func optionalString(members map[string]any, name string) (string, error) {
	value, ok := members[name]
	if !ok || value == nil {
		return "", nil
	}
	text, ok := value.(string)
	if !ok {
		return "", errors.New("not a string")
	}
	return text, nil
}

// stringList returns an array of strings, a single string as one, or nothing.
func stringList(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i, element := range v {
			text, ok := element.(string)
			if !ok {
				return nil, errors.New("an element is not a string")
			}
			list[i] = text
		}
		return list, nil
	}
	return nil, errors.New("neither a string nor an array of strings")
}

// numericDate reads seconds since 1970, whole or not (RFC 7519 section 2).
func numericDate(value any) (*jwt.NumericDate, error) {
	if value == nil {
		return nil, nil // absent, which is golang-jwt's convention too
	}
	number, ok := value.(json.Number)
	if !ok {
		return nil, errors.New("not a number")
	}
	seconds, err := strconv.ParseFloat(number.String(), 64)
	if err != nil || seconds < 0 || seconds > maxNumberDate {
		return nil, errors.New("not a time between 1970 and 9999")
	}
	whole, fraction := math.Modf(seconds)
	return &jwt.NumericDate{Time: time.Unix(int64(whole), int64(fraction*1e9)).UTC()}, nil
}

// bounds returns from when to when (exclusively) the token is valid, with the
// leeway counted in: the same judgement as validate's, for later.
func (c *claims) bounds(leeway time.Duration) (notBefore, expires time.Time) {
	for _, date := range []*jwt.NumericDate{c.notBefore, c.issuedAt} {
		if date != nil && date.After(notBefore) {
			notBefore = date.Time
		}
	}
	if !notBefore.IsZero() {
		notBefore = notBefore.Add(-leeway)
	}
	return notBefore, c.expires.Add(leeway)
}
