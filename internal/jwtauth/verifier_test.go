package jwtauth_test

import (
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/internal/identity"
	"github.com/tenantgate/tenantgate/internal/jwtauth"
)

func TestEveryAlgorithmVerifiesItsOwnTokensOnly(t *testing.T) {
	t.Parallel()
	all := signers(t)
	for _, s := range all {
		t.Run(s.method.Alg(), func(t *testing.T) {
			t.Parallel()
			v, _ := newVerifier(t, s.keys)
			for _, other := range all {
				_, err := v.Verify(mint(t, other.method, "k", other.key, goodClaims()))
				sameKey := fmt.Sprintf("%T", s.key) == fmt.Sprintf("%T", other.key) && (s.method == other.method || s.method.Alg()[1] == 'S' && s.method.Alg()[0] != 'E')
				if sameKey {
					require.NoError(t, err, other.method.Alg())
				} else {
					require.Error(t, err, other.method.Alg())
				}
			}
		})
	}
}

func TestThePrincipalIsWhatTheTokenSays(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, secretKeys(t), func(c *jwtauth.Config) {
		c.Attach = func(p *identity.Principal) any { return "for " + p.UserID }
	})
	token := mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims())
	for range 2 { // anew, then from the cache
		got, err := v.Verify(token)
		require.NoError(t, err)
		require.Equal(t, identity.Principal{
			UserID: "u-1", TenantID: "1", Roles: []string{"Admin"}, Issuer: issuerA, TokenID: "t-1",
			ExpiresAt: now.Add(15 * time.Minute),
		}, got.Principal)
		require.Equal(t, "for u-1", got.Attachment)
	}
	require.Equal(t, 1, v.CachedTokens())
}

func TestClaims(t *testing.T) {
	t.Parallel()
	type change = map[string]any
	for name, test := range map[string]struct {
		change change
		want   jwtauth.Reason
	}{
		"audience is one of several":             {change{"aud": []string{"other", audience}}, "ok"},
		"audience is another":                    {change{"aud": "other"}, jwtauth.ReasonWrongAudience},
		"audience differs in case":               {change{"aud": "API"}, jwtauth.ReasonWrongAudience},
		"no audience":                            {change{"aud": nil}, jwtauth.ReasonMissingClaim},
		"an empty list of audiences":             {change{"aud": []string{}}, jwtauth.ReasonMissingClaim},
		"an empty audience":                      {change{"aud": ""}, jwtauth.ReasonMissingClaim},
		"audience is a number":                   {change{"aud": 1}, jwtauth.ReasonInvalidClaim},
		"a number among the audiences":           {change{"aud": []any{audience, 1}}, jwtauth.ReasonInvalidClaim},
		"no issuer":                              {change{"iss": nil}, jwtauth.ReasonMissingClaim},
		"issuer with a slash more":               {change{"iss": issuerA + "/"}, jwtauth.ReasonUnknownIssuer},
		"issuer is an array":                     {change{"iss": []string{issuerA}}, jwtauth.ReasonInvalidClaim},
		"no expiry":                              {change{"exp": nil}, jwtauth.ReasonMissingClaim},
		"expiry is a string":                     {change{"exp": "9999999999"}, jwtauth.ReasonInvalidClaim},
		"expiry in the far future":               {change{"exp": 1e15}, jwtauth.ReasonInvalidClaim},
		"expiry is negative":                     {change{"exp": -1}, jwtauth.ReasonInvalidClaim},
		"expiry has a fraction":                  {change{"exp": float64(now.Unix()) + 0.5}, "ok"},
		"not before is true":                     {change{"nbf": true}, jwtauth.ReasonInvalidClaim},
		"issued at is an object":                 {change{"iat": change{}}, jwtauth.ReasonInvalidClaim},
		"no issued at":                           {change{"iat": nil}, "ok"},
		"token id is a number":                   {change{"jti": 7}, jwtauth.ReasonInvalidClaim},
		"token id has a line break":              {change{"jti": "a\nb"}, jwtauth.ReasonInvalidClaim},
		"no token id":                            {change{"jti": nil}, "ok"},
		"no user":                                {change{"sub": nil}, jwtauth.ReasonMissingClaim},
		"user is empty":                          {change{"sub": ""}, jwtauth.ReasonInvalidClaim},
		"user has 255 bytes":                     {change{"sub": strings.Repeat("u", 255)}, "ok"},
		"user has 256 bytes":                     {change{"sub": strings.Repeat("u", 256)}, jwtauth.ReasonInvalidClaim},
		"user begins a header, CWE-113":          {change{"sub": "u\r\nX-Roles: Admin"}, jwtauth.ReasonInvalidClaim},
		"user has a NUL":                         {change{"sub": "u\x00"}, jwtauth.ReasonInvalidClaim},
		"user has DEL":                           {change{"sub": "u\x7f"}, jwtauth.ReasonInvalidClaim},
		"user is not ASCII":                      {change{"sub": "ü"}, jwtauth.ReasonInvalidClaim},
		"user ends with a space":                 {change{"sub": "u "}, jwtauth.ReasonInvalidClaim},
		"user is an e-mail address":              {change{"sub": "admin@acme.test"}, "ok"},
		"user has the form of Auth0":             {change{"sub": "auth0|5f7c8ec7c33c6c004bbafe82"}, "ok"},
		"user is a list":                         {change{"sub": []string{"u"}}, jwtauth.ReasonInvalidClaim},
		"no tenant":                              {change{"tenant_id": nil}, "ok"},
		"tenant is a number":                     {change{"tenant_id": 1}, "ok"},
		"tenant is a fraction":                   {change{"tenant_id": 1.5}, jwtauth.ReasonInvalidClaim},
		"tenant is negative":                     {change{"tenant_id": -1}, jwtauth.ReasonInvalidClaim},
		"tenant is true":                         {change{"tenant_id": true}, jwtauth.ReasonInvalidClaim},
		"tenant is empty":                        {change{"tenant_id": ""}, jwtauth.ReasonInvalidClaim},
		"tenant begins a header":                 {change{"tenant_id": "1\nX: 2"}, jwtauth.ReasonInvalidClaim},
		"no roles":                               {change{"roles": nil}, "ok"},
		"roles is one string":                    {change{"roles": "Admin"}, "ok"},
		"roles is an object":                     {change{"roles": change{}}, jwtauth.ReasonInvalidClaim},
		"a role is a number":                     {change{"roles": []any{"Admin", 1}}, jwtauth.ReasonInvalidClaim},
		"a role is empty":                        {change{"roles": []string{""}}, jwtauth.ReasonInvalidClaim},
		"a role has a comma and so would be two": {change{"roles": []string{"Viewer,Admin"}}, jwtauth.ReasonInvalidClaim},
		"a role begins a header":                 {change{"roles": []string{"a\r\nb"}}, jwtauth.ReasonInvalidClaim},
		"a role begins with a space":             {change{"roles": []string{" Admin"}}, jwtauth.ReasonInvalidClaim},
		"a role in letters of its own":           {change{"roles": []string{"Geschäftsführer"}}, "ok"},
		"a role has a bidi override":             {change{"roles": []string{"a\u202eb"}}, jwtauth.ReasonInvalidClaim},
		"a role has a C1 control":                {change{"roles": []string{"a\u0085b"}}, jwtauth.ReasonInvalidClaim},
		"a claim that nobody asks for":           {change{"note": "a\nb"}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, _ := newVerifier(t, secretKeys(t))
			_, err := v.Verify(mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims(test.change)))
			require.Equal(t, test.want, reasonOf(err), "%v", err)
		})
	}
}

func TestATenantNumberBecomesText(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()))
	for payload, want := range map[string]string{`7`: "7", `"7"`: "7", `9223372036854775807`: "9223372036854775807"} {
		claims := `{"iss":"` + issuerA + `","aud":"api","sub":"u","exp":1795435200,"tenant_id":` + payload + `}`
		got, err := v.Verify(mintRaw(edKey(), `{"alg":"EdDSA"}`, claims))
		require.NoError(t, err)
		require.Equal(t, want, got.Principal.TenantID)
	}
	for _, payload := range []string{`7.0`, `7e0`, `70e-1`, `-0`, `99999999999999999999`} {
		claims := `{"iss":"` + issuerA + `","aud":"api","sub":"u","exp":1795435200,"tenant_id":` + payload + `}`
		_, err := v.Verify(mintRaw(edKey(), `{"alg":"EdDSA"}`, claims))
		require.Equal(t, jwtauth.ReasonInvalidClaim, reasonOf(err), payload)
	}
}

func TestClaimNamesCanBeChosenAndNested(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, secretKeys(t), func(c *jwtauth.Config) {
		c.Claims = jwtauth.ClaimNames{User: "https://x.test/uid", Tenant: "/org/a~1b", Roles: "/realm_access/roles"}
	})
	got, err := v.Verify(mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims(map[string]any{
		"https://x.test/uid": 42, "org": map[string]any{"a/b": "t"}, "realm_access": map[string]any{"roles": []string{"x", "y"}},
	})))
	require.NoError(t, err)
	require.Equal(t, "42", got.Principal.UserID)
	require.Equal(t, "t", got.Principal.TenantID)
	require.Equal(t, []string{"x", "y"}, got.Principal.Roles)

	got, err = v.Verify(mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims(map[string]any{
		"https://x.test/uid": "u", "org": "no object",
	})))
	require.NoError(t, err)
	require.Empty(t, got.Principal.TenantID)
}

func TestTimeLimitsAreExactAnewAndFromTheCache(t *testing.T) {
	t.Parallel()
	const leeway = 30 * time.Second
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, test := range map[string]struct {
		change map[string]any
		from   time.Duration // first valid moment after now
		until  time.Duration // first invalid moment after now
	}{
		"exp":         {map[string]any{"iat": nil, "exp": at(time.Minute)}, 0, time.Minute + leeway},
		"nbf":         {map[string]any{"nbf": at(time.Minute)}, time.Minute - leeway, 15*time.Minute + leeway},
		"iat":         {map[string]any{"iat": at(time.Minute)}, time.Minute - leeway, 15*time.Minute + leeway},
		"nbf and iat": {map[string]any{"iat": at(time.Minute), "nbf": at(2 * time.Minute)}, 2*time.Minute - leeway, 15*time.Minute + leeway},
	} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cached %t", name, cached), func(t *testing.T) {
				t.Parallel()
				v, c := newVerifier(t, secretKeys(t))
				token := mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims(test.change))
				if cached {
					c.Set(now.Add(test.from))
					require.NoError(t, errOf(v.Verify(token)))
				}
				for _, step := range []struct {
					at   time.Duration
					want jwtauth.Reason
				}{
					{test.until - time.Nanosecond, "ok"},
					{test.from, "ok"},
					{test.from - time.Nanosecond, jwtauth.ReasonNotYetValid},
					{test.until, jwtauth.ReasonExpired},
					{test.until + time.Hour, jwtauth.ReasonExpired},
				} {
					if step.at < 0 {
						continue
					}
					c.Set(now.Add(step.at))
					_, err := v.Verify(token)
					require.Equal(t, step.want, reasonOf(err), "at %s", step.at)
				}
			})
		}
	}
}

func errOf(_ *jwtauth.Verified, err error) error { return err }

func TestAKeyFromTheOtherIssuerIsNoUse(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public()), func(c *jwtauth.Config) {
		c.Issuers = append(c.Issuers, jwtauth.Issuer{Name: issuerB, Keys: pinnedKeys(t, otherEdKey().Public()), Audiences: []string{audience}})
	})
	for _, test := range []struct {
		issuer string
		key    crypto.PrivateKey
		want   jwtauth.Reason
	}{
		{issuerA, edKey(), "ok"},
		{issuerB, otherEdKey(), "ok"},
		{issuerA, otherEdKey(), jwtauth.ReasonBadSignature},
		{issuerB, edKey(), jwtauth.ReasonBadSignature},
	} {
		_, err := v.Verify(mint(t, jwt.SigningMethodEdDSA, "k", test.key, goodClaims(map[string]any{"iss": test.issuer})))
		require.Equal(t, test.want, reasonOf(err))
	}
}

func TestEveryPinnedKeyIsTried(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, edKey().Public(), otherEdKey().Public(), p256Key().Public()))
	for _, key := range []crypto.PrivateKey{edKey(), otherEdKey()} {
		require.NoError(t, errOf(v.Verify(mint(t, jwt.SigningMethodEdDSA, "any", key, goodClaims()))))
	}
	require.NoError(t, errOf(v.Verify(mint(t, jwt.SigningMethodES256, "", p256Key(), goodClaims()))))
}

func TestAlgorithmsCanBeNarrowed(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, pinnedKeys(t, rsaKey().Public()), func(c *jwtauth.Config) { c.Issuers[0].Algorithms = []string{"PS256"} })
	require.NoError(t, errOf(v.Verify(mint(t, jwt.SigningMethodPS256, "", rsaKey(), goodClaims()))))
	_, err := v.Verify(mint(t, jwt.SigningMethodRS256, "", rsaKey(), goodClaims()))
	require.Equal(t, jwtauth.ReasonUnsupported, reasonOf(err))
}

func TestTheCacheIsBounded(t *testing.T) {
	t.Parallel()
	v, _ := newVerifier(t, secretKeys(t), func(c *jwtauth.Config) { c.CacheSize = 10 })
	for i := range 200 {
		padding := strings.Repeat("x", i*20) // some tokens weigh more than one share
		token := mint(t, jwt.SigningMethodHS256, "", []byte(goodSecret), goodClaims(map[string]any{"jti": fmt.Sprint(i), "pad": padding}))
		require.NoError(t, errOf(v.Verify(token)))
	}
	require.LessOrEqual(t, v.CachedTokens(), 10)
}

func TestNewRefusesWhatCanNotWork(t *testing.T) {
	t.Parallel()
	keys := pinnedKeys(t, edKey().Public())
	for want, change := range map[string]func(*jwtauth.Config){
		"no issuer":                    func(c *jwtauth.Config) { c.Issuers = nil },
		`issuer "": no name`:           func(c *jwtauth.Config) { c.Issuers[0].Name = "" },
		"no keys":                      func(c *jwtauth.Config) { c.Issuers[0].Keys = nil },
		"no audience, or an empty one": func(c *jwtauth.Config) { c.Issuers[0].Audiences = []string{"a", ""} },
		"twice":                        func(c *jwtauth.Config) { c.Issuers = append(c.Issuers, c.Issuers[0]) },
		`algorithm "none": want`:       func(c *jwtauth.Config) { c.Issuers[0].Algorithms = []string{"none"} },
		`algorithm "HS256" does not fit the keys`: func(c *jwtauth.Config) { c.Issuers[0].Algorithms = []string{"HS256"} },
		"a leeway of 1m1s: from 0 to 1m0s is":     func(c *jwtauth.Config) { c.Leeway = time.Minute + time.Second },
		"a cache of -1 tokens":                    func(c *jwtauth.Config) { c.CacheSize = -1 },
		`issuer "b": the keys of another issuer`: func(c *jwtauth.Config) {
			second := c.Issuers[0]
			second.Name = "b"
			c.Issuers = append(c.Issuers, second)
		},
		`issuer "https://a.test": no audience, or`: func(c *jwtauth.Config) { c.Issuers[0].Audiences = nil },
	} {
		config := jwtauth.Config{Issuers: []jwtauth.Issuer{{Name: issuerA, Keys: keys, Audiences: []string{audience}}}}
		change(&config)
		_, err := jwtauth.New(config)
		require.ErrorContains(t, err, want)
	}
}

func TestProblemsFollowRFC6750(t *testing.T) {
	t.Parallel()
	for reason, want := range map[jwtauth.Reason]struct {
		status    int
		code      string
		challenge string
	}{
		jwtauth.ReasonMissing:       {401, "token-missing", `Bearer realm="tenantgate"`},
		jwtauth.ReasonAmbiguous:     {400, "token-ambiguous", `Bearer realm="tenantgate", error="invalid_request", error_description="The request has more than one access token or Authorization header."`},
		jwtauth.ReasonExpired:       {401, "token-expired", `Bearer realm="tenantgate", error="invalid_token", error_description="The access token has expired."`},
		jwtauth.ReasonBadSignature:  {401, "token-invalid", `Bearer realm="tenantgate", error="invalid_token", error_description="The signature of the access token is wrong."`},
		jwtauth.ReasonNoKeys:        {503, "keys-not-loaded", ""},
		jwtauth.Reason("of no use"): {401, "token-invalid", `Bearer realm="tenantgate", error="invalid_token", error_description="The access token is not accepted."`},
	} {
		err := &jwtauth.Error{Reason: reason, Err: errors.New("private")}
		p := err.Problem()
		require.Equal(t, want.status, p.Status, reason)
		require.Equal(t, want.code, p.Code, reason)
		require.Equal(t, want.challenge, p.Header.Get("WWW-Authenticate"), reason)
		require.Equal(t, want.status == 503, p.Header.Get("Retry-After") != "", reason)
		require.Contains(t, string(p.Body("")), `"reason":"`+string(reason)+`"`)
		require.NotContains(t, string(p.Body("")), "private")
	}
	for _, reason := range []jwtauth.Reason{
		jwtauth.ReasonMalformed, jwtauth.ReasonUnsupported, jwtauth.ReasonUnknownIssuer, jwtauth.ReasonUnknownKey,
		jwtauth.ReasonNotYetValid, jwtauth.ReasonWrongAudience, jwtauth.ReasonMissingClaim, jwtauth.ReasonInvalidClaim,
	} {
		p := (&jwtauth.Error{Reason: reason}).Problem()
		require.Equal(t, 401, p.Status)
		require.Contains(t, p.Header.Get("WWW-Authenticate"), `error="invalid_token", error_description="The `)
		require.NotEqual(t, "The access token is not accepted.", p.Detail, "%s has a sentence of its own", reason)
	}
}
