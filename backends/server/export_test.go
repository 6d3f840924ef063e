package server

// ParseTags reads If-Match or If-None-Match for the black-box tests.
func ParseTags(lines []string) (everything bool, strong, weak []string, err error) {
	t, err := parseTags(lines)
	return t.any, t.strong, t.weak, err
}
