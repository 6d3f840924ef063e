package jwtauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep JSON may nest in a token or a key set.
const maxDepth = 32

// Errors of parseObject.
var (
	errJSON      = errors.New("not valid JSON")
	errUTF8      = errors.New("not valid UTF-8")
	errObject    = errors.New("not a JSON object")
	errDuplicate = errors.New("an object has two members of one name")
	errDepth     = errors.New("nested too deep")
)

// parseObject decodes data, which must be exactly one JSON object, without the
// leniencies of encoding/json: members of one name twice in an object (two
// parsers would pick different ones), invalid UTF-8 and deep nesting are
// errors, and member names are case-sensitive. Numbers stay json.Number.
func parseObject(data []byte) (map[string]any, error) {
	switch {
	case !utf8.Valid(data):
		return nil, errUTF8
	case !json.Valid(data): // also refuses a byte order mark and trailing data
		return nil, errJSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	value, err := parseValue(dec, 1)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errObject
	}
	return object, nil
}

// parseValue decodes the decoder's next value at the given depth.
func parseValue(dec *json.Decoder, depth int) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, errJSON
	}
	switch token {
	case json.Delim('{'):
		return parseMembers(dec, depth)
	case json.Delim('['):
		return parseElements(dec, depth)
	}
	return token, nil
}

func parseMembers(dec *json.Decoder, depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	object := make(map[string]any)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, errJSON
		}
		name, ok := token.(string)
		// The decoder turns every unpaired surrogate into U+FFFD, so two names
		// that differ there would fall together.
		if !ok || strings.ContainsRune(name, utf8.RuneError) {
			return nil, errJSON
		}
		if _, twice := object[name]; twice {
			return nil, errDuplicate
		}
		if object[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, errJSON
	}
	return object, nil
}

func parseElements(dec *json.Decoder, depth int) ([]any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	elements := []any{}
	for dec.More() {
		value, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		elements = append(elements, value)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errJSON
	}
	return elements, nil
}
