// Package password hashes passwords with argon2id and decides which ones are
// good enough.
package password

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// The parameters of new hashes: the second choice of OWASP's Password Storage
// cheat sheet, which costs one thread 19 MiB and about 50 ms.
const (
	memoryKiB = 19456
	passes    = 2
	threads   = 1
	saltBytes = 16
	keyBytes  = 32
)

// maxBytes bounds what is hashed; [Policy] refuses longer passwords.
const maxBytes = 1024

// errHash says that a stored hash can't be read.
var errHash = errors.New("not an argon2id hash of ours")

// Hasher computes and checks argon2id hashes. Every computation needs 19 MiB,
// so it runs at most as many at once as it was told: a burst of logins waits
// in turn instead of taking the memory of the machine.
type Hasher struct {
	slots chan struct{}
	fake  string
}

// NewHasher returns a hasher that runs at most parallel computations at once.
func NewHasher(parallel int) *Hasher {
	h := &Hasher{slots: make(chan struct{}, max(1, parallel))}
	h.fake = encode(make([]byte, saltBytes), make([]byte, keyBytes))
	return h
}

// Hash returns the PHC string of a password. It waits for a slot and returns
// the context's error if that ends first.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails since Go 1.24
	key, err := h.derive(ctx, password, params{memoryKiB, passes, threads, salt, make([]byte, keyBytes)})
	if err != nil {
		return "", err
	}
	return encode(salt, key), nil
}

// Verify reports whether password has the hash phc, and whether phc was made
// with other parameters than today's. An empty phc, for a user who does not
// exist or has no password, takes as long and is false.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error) {
	known := phc != ""
	if !known {
		phc = h.fake
	}
	p, err := decode(phc)
	if err != nil {
		return false, false, err
	}
	key, err := h.derive(ctx, password, p)
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(key, p.key) == 1 && known
	return ok, ok && (p.memory != memoryKiB || p.passes != passes || p.threads != threads), nil
}

func (h *Hasher) derive(ctx context.Context, password string, p params) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for password hashing: %w", context.Cause(ctx))
	}
	if len(password) > maxBytes {
		password = password[:maxBytes] // the policy refuses it; the time stays bounded
	}
	return argon2.IDKey([]byte(norm.NFKC.String(password)), p.salt, p.passes, p.memory, p.threads, uint32(len(p.key))), nil
}

// params are what a PHC string holds.
type params struct {
	memory    uint32
	passes    uint32
	threads   uint8
	salt, key []byte
}

// encode returns the PHC string of today's parameters.
func encode(salt, key []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memoryKiB, passes, threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// decode reads a PHC string. It bounds every parameter: a hash that someone
// wrote into the table must not cost gigabytes.
func decode(phc string) (params, error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return params{}, errHash
	}
	var p params
	var version int
	if _, err := fmt.Sscanf(parts[2]+"$"+parts[3], "v=%d$m=%d,t=%d,p=%d", &version, &p.memory, &p.passes, &p.threads); err != nil || version != argon2.Version {
		return params{}, errHash
	}
	if p.memory < 1024 || p.memory > 1<<20 || p.passes < 1 || p.passes > 16 || p.threads < 1 || p.threads > 16 {
		return params{}, errHash
	}
	var errSalt, errKey error
	p.salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.key, errKey = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errKey != nil || len(p.salt) < 8 || len(p.salt) > 64 || len(p.key) < 16 || len(p.key) > 64 {
		return params{}, errHash
	}
	return p, nil
}

// Policy decides which passwords are good enough: long ones that are not
// common and do not consist of what everybody knows about the account. There
// are no composition rules (NIST SP 800-63B-4 section 3.1.1.2).
type Policy struct {
	// MinLength is the least number of Unicode code points; 0 means 15. NIST
	// allows no less than 8.
	MinLength int
}

// Least returns the least number of Unicode code points of a password's NFKC form.
func (p Policy) Least() int { return cmp.Or(p.MinLength, 15) }

// Check returns nil for a good password, else the reason: a stable code and a
// sentence for the person. context words (tenant, product, the address's
// local part) may not make up the password.
func (p Policy) Check(password string, contextWords ...string) *Weakness {
	least := p.Least()
	lower := strings.ToLower(norm.NFKC.String(password))
	switch {
	case !utf8.ValidString(password):
		return &Weakness{"invalid", "The password is not valid text."}
	case len(password) > maxBytes:
		return &Weakness{"too-long", fmt.Sprintf("Use at most %d bytes.", maxBytes)}
	case utf8.RuneCountInString(norm.NFKC.String(password)) < least:
		return &Weakness{"too-short", fmt.Sprintf("Use at least %d characters; a few words in a row make a good password.", least)}
	case isRepetition(lower) || isSequence(lower) || commonStem(lower):
		return &Weakness{"too-common", "This is one of the first passwords that an attacker tries."}
	}
	rest := lower
	for _, word := range contextWords {
		if word = strings.ToLower(word); len(word) >= 3 {
			rest = strings.ReplaceAll(rest, word, "")
		}
	}
	if rest != lower && utf8.RuneCountInString(rest) < least/2 {
		return &Weakness{"predictable", "Do not build the password from the name of the tenant, the product or your address."}
	}
	return nil
}

// Weakness is why a password was refused.
type Weakness struct {
	// Code is stable: invalid, too-long, too-short, too-common or predictable.
	Code string
	// Detail says what to do.
	Detail string
}

// isRepetition reports whether s is one short unit over and over.
func isRepetition(s string) bool {
	for unit := 1; unit <= len(s)/2 && unit <= 8; unit++ {
		if strings.Repeat(s[:unit], len(s)/unit+1)[:len(s)] == s {
			return true
		}
	}
	return false
}

// isSequence reports whether s walks along the alphabet, the digits or a row of
// the keyboard.
func isSequence(s string) bool {
	const rows = "abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz 01234567890123456789 qwertyuiopasdfghjklzxcvbnm"
	return len(s) >= 4 && strings.Contains(rows, s)
}

// common are stems of the passwords at the top of every leaked list. Long
// passwords that are one of them and a tail of digits or signs fall with them.
var common = []string{
	"password", "passw0rd", "p@ssw0rd", "p@ssword", "letmein", "welcome", "iloveyou", "qwertyuiop", "qwerty", "administrator",
	"admin", "changeme", "secret", "football", "baseball", "princess", "sunshine", "trustno1", "superman", "dragon", "monkey",
	"master", "login", "abc123", "1q2w3e4r5t6y", "1q2w3e4r", "zaq12wsx", "default", "tenantgate",
}

// commonStem reports whether s is a common password, repeated or followed by
// digits and signs.
func commonStem(s string) bool {
	for _, stem := range common {
		if rest := strings.ReplaceAll(s, stem, ""); rest != s && strings.Trim(rest, "0123456789!?.,-_+*#@$%& ") == "" {
			return true
		}
	}
	return false
}
