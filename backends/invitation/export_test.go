package invitation

// The parsers, for the fuzz tests.
var (
	NewToken   = newToken
	ParseToken = parseToken
)

// EncodeCursor is cursor.encode.
func EncodeCursor(createdAt int64, id, status, emailKey string) string {
	return cursor{createdAt: createdAt, id: id}.encode(filter{status: status, emailKey: emailKey})
}

// ParseCursor is parseCursor.
func ParseCursor(text, status, emailKey string) (createdAt int64, id string, ok bool) {
	c, ok := parseCursor(text, filter{status: status, emailKey: emailKey})
	return c.createdAt, c.id, ok
}
