// Package contract reads backends/openapi.yaml and holds requests and responses
// against it. Only tests use it: those here against the services, those in
// test/contract against the Caddyfile.
package contract

import (
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Document is an OpenAPI description.
type Document struct {
	// Operations are in the order of their paths and methods.
	Operations []Operation
	root       map[string]any
}

// Operation is a method of a path.
type Operation struct {
	Method, Path string
	// Permission is the product/feature/action that the gateway must check, empty if none.
	Permission string
	// Public says that nobody needs to be logged in.
	Public bool
	// Gateway says that the gateway itself answers: it reaches no service.
	Gateway bool
	fields  map[string]any
}

// String returns the method and the path.
func (o Operation) String() string { return o.Method + " " + o.Path }

// Load reads the description in a file.
func Load(file string) (*Document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}

// Parse reads a description.
func Parse(text []byte) (*Document, error) {
	d := &Document{}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		return nil, fmt.Errorf("read OpenAPI: %w", err)
	}
	if len(object(d.root["paths"])) == 0 {
		return nil, errors.New("read OpenAPI: there are no paths")
	}
	for _, path := range sorted(object(d.root["paths"])) {
		methods := object(object(d.root["paths"])[path])
		for _, method := range sorted(methods) {
			o := Operation{Method: strings.ToUpper(method), Path: path, fields: object(methods[method])}
			o.Permission, _ = o.fields["x-permission"].(string)
			security, own := o.fields["security"].([]any)
			o.Public = own && len(security) == 0
			o.Gateway = o.fields["x-served-by"] == "gateway"
			d.Operations = append(d.Operations, o)
		}
	}
	return d, nil
}

var (
	placeholder = regexp.MustCompile(`\{([^}]+)\}`)
	codeSpan    = regexp.MustCompile("`([a-z][a-z-]*)`")
)

// Services returns the operations that a service answers, not the gateway.
func (d *Document) Services() []Operation {
	return slices.DeleteFunc(slices.Clone(d.Operations), func(o Operation) bool { return o.Gateway })
}

// Check returns what is wrong with the description itself: references that lead
// nowhere, path parameters that are not declared, operations that share an id,
// schemas that the validator does not understand, examples that break their schema.
func (d *Document) Check() []string {
	c := checker{doc: d}
	c.references("#", d.root)
	ids := map[any]bool{}
	for _, o := range d.Operations {
		if id := o.fields["operationId"]; id == nil || ids[id] {
			c.fault(o.String(), "the operationId %v is missing or not unique", id)
		}
		ids[o.fields["operationId"]] = true
		if by, ok := o.fields["x-served-by"]; ok && !o.Gateway {
			c.fault(o.String(), "x-served-by is %v, not gateway", by)
		}
		var want []string
		for _, m := range placeholder.FindAllStringSubmatch(o.Path, -1) {
			want = append(want, m[1])
		}
		if got := d.Parameters(o, "path"); !slices.Equal(got, want) {
			c.fault(o.String(), "the path has the parameters %v, declared are %v", want, got)
		}
	}
	schemas := object(object(d.root["components"])["schemas"])
	for _, name := range sorted(schemas) {
		c.schema("#/components/schemas/"+name, schemas[name])
	}
	return c.faults
}

// Parameters returns the names of the parameters that an operation has in
// "path" or "query".
func (d *Document) Parameters(o Operation, in string) (names []string) {
	all, _ := o.fields["parameters"].([]any)
	for _, p := range all {
		if parameter := d.resolve(p); parameter["in"] == in {
			names = append(names, fmt.Sprint(parameter["name"]))
		}
	}
	return names
}

// Statuses returns the statuses that are documented for an operation by number.
func (d *Document) Statuses(o Operation) (all []int) {
	for _, key := range sorted(object(o.fields["responses"])) {
		if status, err := strconv.Atoi(key); err == nil {
			all = append(all, status)
		}
	}
	return all
}

// Codes returns the problem codes that the description of a response names; the
// status 0 is the default response.
func (d *Document) Codes(o Operation, status int) (codes []string) {
	key := "default"
	if status != 0 {
		key = strconv.Itoa(status)
	}
	response := d.resolve(object(o.fields["responses"])[key])
	for _, m := range codeSpan.FindAllStringSubmatch(fmt.Sprint(response["description"]), -1) {
		codes = append(codes, m[1])
	}
	return codes
}

// HasBody reports whether an operation takes a body, and returns the example of
// its schema, nil if there is none.
func (d *Document) HasBody(o Operation) (example any, ok bool) {
	schema := d.bodySchema(o)
	if schema == nil {
		return nil, false
	}
	if examples, _ := d.resolve(schema)["examples"].([]any); len(examples) > 0 {
		example = examples[0]
	}
	return example, true
}

func (d *Document) bodySchema(o Operation) any {
	content := object(d.resolve(o.fields["requestBody"])["content"])
	return object(content["application/json"])["schema"]
}

// CheckRequest returns how a body differs from what is documented.
func (d *Document) CheckRequest(o Operation, body []byte) []string {
	schema := d.bodySchema(o)
	if schema == nil {
		if len(body) > 0 {
			return []string{o.String() + " takes no body"}
		}
		return nil
	}
	if len(body) == 0 && d.resolve(o.fields["requestBody"])["required"] != true {
		return nil
	}
	return d.validate("body", schema, body)
}

// CheckResponse returns how a response differs from what is documented.
func (d *Document) CheckResponse(o Operation, status int, header http.Header, body []byte) []string {
	documented, ok := object(o.fields["responses"])[strconv.Itoa(status)]
	if !ok {
		return []string{fmt.Sprintf("%s: status %d is not documented", o, status)}
	}
	response := d.resolve(documented)
	var faults []string
	for _, name := range sorted(object(response["headers"])) {
		if d.resolve(object(response["headers"])[name])["required"] == true && header.Get(name) == "" {
			faults = append(faults, "the header "+name+" is missing")
		}
	}
	content := object(response["content"])
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	media, ok := content[mediaType]
	switch {
	case len(content) == 0 && len(body) == 0:
		return faults
	case !ok:
		return append(faults, fmt.Sprintf("the content type is %q, documented are %v", mediaType, sorted(content)))
	case strings.HasSuffix(mediaType, "json"):
		return append(faults, d.validate("body", object(media)["schema"], body)...)
	}
	return faults
}

// CheckSchema returns how a JSON text breaks the schema of a name.
func (d *Document) CheckSchema(name string, text []byte) []string {
	return d.validate(name, map[string]any{"$ref": "#/components/schemas/" + name}, text)
}

// resolve returns what a reference leads to, with the description that stands
// beside the reference, or the value itself.
func (d *Document) resolve(v any) map[string]any {
	for range 10 { // a longer chain is a circle
		here := object(v)
		ref, ok := here["$ref"].(string)
		if !ok {
			return here
		}
		v = d.lookup(ref)
		if text, ok := here["description"]; ok && v != nil {
			there := maps.Clone(object(v))
			there["description"] = text
			v = there
		}
	}
	return nil
}

// lookup returns what stands at "#/a/b", or nil.
func (d *Document) lookup(ref string) any {
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil
	}
	var v any = d.root
	for key := range strings.SplitSeq(path, "/") {
		v = object(v)[key]
	}
	return v
}

// object returns v as an object, empty if it is none.
func object(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}

func sorted(o map[string]any) []string { return slices.Sorted(maps.Keys(o)) }
