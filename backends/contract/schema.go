package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// checker collects faults.
type checker struct {
	doc    *Document
	faults []string
}

func (c *checker) fault(at, format string, args ...any) {
	c.faults = append(c.faults, at+": "+fmt.Sprintf(format, args...))
}

// keywords are those that the validator checks, or knows to be no constraint.
// A schema with any other is refused, so that nothing goes unchecked in silence.
var keywords = []string{
	"$ref", "allOf", "type", "enum", "properties", "required", "additionalProperties", "minProperties", "items", "minItems", "maxItems",
	"maxLength", "minimum", "maximum",
	"description", "format", "default", "examples",
}

// references checks that every reference below v leads somewhere.
func (c *checker) references(at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok && c.doc.resolve(v) == nil {
			c.fault(at, "%s leads nowhere", ref)
		}
		for _, key := range sorted(v) {
			c.references(at+"/"+key, v[key])
		}
	case []any:
		for i, item := range v {
			c.references(at+"/"+strconv.Itoa(i), item)
		}
	}
}

// schema checks a schema itself: its keywords, its required members and its examples.
func (c *checker) schema(at string, v any) {
	schema := object(v)
	if parts := list(schema["allOf"]); parts != nil && len(schema) > 1 {
		c.fault(at, "what stands beside allOf goes unchecked")
	} else {
		for i, part := range parts {
			c.schema(at+"/allOf/"+strconv.Itoa(i), part)
		}
	}
	for _, key := range sorted(schema) {
		if !slices.Contains(keywords, key) {
			c.fault(at, "the validator does not know %q", key)
		}
	}
	properties := object(schema["properties"])
	for _, name := range list(schema["required"]) {
		if _, ok := properties[fmt.Sprint(name)]; !ok {
			c.fault(at, "%v is required but no property", name)
		}
	}
	examples := list(schema["examples"])
	for i, example := range examples {
		encoded, err := json.Marshal(example)
		if err != nil {
			c.fault(at, "example %d: %v", i, err)
			continue
		}
		c.faults = append(c.faults, c.doc.validate(at+"/examples/"+strconv.Itoa(i), schema, encoded)...)
	}
	for _, name := range sorted(properties) {
		c.schema(at+"/"+name, properties[name])
	}
	if items, ok := schema["items"]; ok {
		c.schema(at+"/items", items)
	}
}

// validate returns how a JSON text breaks a schema. A member that no schema
// names is a fault even where JSON Schema would allow it: the description shall
// be complete.
func (d *Document) validate(at string, schema any, text []byte) []string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return []string{at + ": is no JSON: " + err.Error()}
	}
	if _, err := decoder.Token(); err != io.EOF {
		return []string{at + ": there is more after the JSON"}
	}
	c := checker{doc: d}
	c.value(at, schema, v)
	return c.faults
}

func (c *checker) value(at string, v, value any) {
	schema := c.doc.merge(c.doc.resolve(v))
	if schema == nil {
		c.fault(at, "there is no schema")
		return
	}
	if types := typesOf(schema); len(types) > 0 && !slices.ContainsFunc(types, func(t any) bool { return is(t, value) }) {
		c.fault(at, "%v is not of type %v", value, types)
		return
	}
	if enum := list(schema["enum"]); enum != nil && !slices.ContainsFunc(enum, func(e any) bool { return fmt.Sprint(e) == fmt.Sprint(value) }) {
		c.fault(at, "%v is not one of %v", value, enum)
	}
	switch value := value.(type) {
	case string:
		c.within(at, schema, "", "maxLength", utf8.RuneCountInString(value))
	case json.Number:
		if n, err := strconv.Atoi(value.String()); err == nil {
			c.within(at, schema, "minimum", "maximum", n)
		}
	case []any:
		c.within(at, schema, "minItems", "maxItems", len(value))
		for i, item := range value {
			c.value(at+"/"+strconv.Itoa(i), schema["items"], item)
		}
	case map[string]any:
		c.members(at, schema, value)
	}
}

// merge returns the schema of an object that allOf puts together: the members of
// all parts.
func (d *Document) merge(schema map[string]any) map[string]any {
	parts := list(schema["allOf"])
	if parts == nil {
		return schema
	}
	properties, required := map[string]any{}, []any{}
	for _, part := range parts {
		resolved := d.merge(d.resolve(part))
		maps.Copy(properties, object(resolved["properties"]))
		required = append(required, list(resolved["required"])...)
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

func (c *checker) members(at string, schema, value map[string]any) {
	c.within(at, schema, "minProperties", "", len(value))
	for _, name := range list(schema["required"]) {
		if _, ok := value[fmt.Sprint(name)]; !ok {
			c.fault(at, "%v is missing", name)
		}
	}
	properties := object(schema["properties"])
	for _, name := range sorted(value) {
		if property, ok := properties[name]; ok {
			c.value(at+"/"+name, property, value[name])
		} else if schema["additionalProperties"] != true {
			c.fault(at, "%s is not documented", name)
		}
	}
}

// within checks a number against the bounds that two keywords give.
func (c *checker) within(at string, schema map[string]any, least, most string, n int) {
	if bound, ok := schema[least].(int); ok && n < bound {
		c.fault(at, "%d is below %s %d", n, least, bound)
	}
	if bound, ok := schema[most].(int); ok && n > bound {
		c.fault(at, "%d is above %s %d", n, most, bound)
	}
}

func typesOf(schema map[string]any) []any {
	if one, ok := schema["type"].(string); ok {
		return []any{one}
	}
	return list(schema["type"])
}

// is reports whether a decoded value has a type of JSON Schema.
func is(name, value any) bool {
	switch value := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case json.Number:
		_, err := strconv.ParseInt(value.String(), 10, 64)
		return name == "number" || name == "integer" && err == nil
	case []any:
		return name == "array"
	}
	return name == "object"
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}
