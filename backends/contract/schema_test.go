package contract_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenantgate/tenantgate/backends/contract"
)

// small is a description with everything that the validator checks.
const small = `
paths:
  /things/{id}/:
    put:
      operationId: put
      x-permission: shop/things/write
      parameters: [{$ref: "#/components/parameters/id"}]
      requestBody: {required: true, content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}}
      responses:
        "200": {$ref: "#/components/responses/Thing"}
        "204": {description: Done}
        "409": {$ref: "#/components/responses/Problem", description: "` + "`in-use` or `gone`" + `"}
components:
  parameters:
    id: {name: id, in: path, required: true, schema: {type: integer}}
  responses:
    Thing:
      description: The thing
      headers: {Location: {required: true}, Link: {}}
      content: {application/json: {schema: {$ref: "#/components/schemas/Thing"}}}
    Problem: {description: A problem, content: {application/problem+json: {schema: {type: object, properties: {code: {type: string}}}}}}
  schemas:
    Thing:
      type: object
      required: [id, tags]
      minProperties: 2
      properties:
        id: {type: integer, minimum: 1, maximum: 9}
        name: {type: [string, "null"], maxLength: 3}
        kind: {type: string, enum: [big, small]}
        ok: {type: boolean}
        weight: {type: number}
        tags: {type: array, minItems: 1, maxItems: 2, items: {type: string}}
        free: {type: object, additionalProperties: true}
        both: {$ref: "#/components/schemas/Both"}
      examples: [{id: 1, tags: [x]}]
    Both:
      allOf:
        - {$ref: "#/components/schemas/One"}
        - {type: object, required: [b], properties: {b: {type: integer}}}
    One: {type: object, required: [a], additionalProperties: false, properties: {a: {type: integer}}}
`

func parse(t *testing.T, text string) *contract.Document {
	t.Helper()
	d, err := contract.Parse([]byte(text))
	require.NoError(t, err)
	return d
}

func TestTheValidatorFails(t *testing.T) {
	t.Parallel()
	d := parse(t, small)
	require.Empty(t, d.Check())
	for body, want := range map[string][]string{
		`{"id":1,"tags":["x"]}`: nil,
		`{"id":9,"tags":["x","y"],"name":null,"kind":"big","ok":true,"weight":1.5,"free":{"a":1}}`: nil,
		`{"tags":["x"],"name":"n"}`:                    {"body: id is missing"},
		`{"id":1,"tags":["x"],"more":1}`:               {"body: more is not documented"},
		`{"id":"1","tags":["x"]}`:                      {"body/id: 1 is not of type [integer]"},
		`{"id":1.5,"tags":["x"]}`:                      {"body/id: 1.5 is not of type [integer]"},
		`{"id":0,"tags":["x"]}`:                        {"body/id: 0 is below minimum 1"},
		`{"id":10,"tags":["x"]}`:                       {"body/id: 10 is above maximum 9"},
		`{"id":null,"tags":["x"]}`:                     {"body/id: <nil> is not of type [integer]"},
		`{"id":1,"tags":null}`:                         {"body/tags: <nil> is not of type [array]"},
		`{"id":1,"tags":[]}`:                           {"body/tags: 0 is below minItems 1"},
		`{"id":1,"tags":["x","y","z"]}`:                {"body/tags: 3 is above maxItems 2"},
		`{"id":1,"tags":["x",2]}`:                      {"body/tags/1: 2 is not of type [string]"},
		`{"id":1,"tags":["x"],"name":"long"}`:          {"body/name: 4 is above maxLength 3"},
		`{"id":1,"tags":["x"],"kind":"huge"}`:          {"body/kind: huge is not one of [big small]"},
		`{"id":1,"tags":["x"],"ok":"true"}`:            {"body/ok: true is not of type [boolean]"},
		`{"id":1,"tags":["x"],"free":[]}`:              {"body/free: [] is not of type [object]"},
		`{"id":1,"tags":["x"],"weight":"heavy"}`:       {"body/weight: heavy is not of type [number]"},
		`{"id":1,"tags":["x"],"both":{"a":1,"b":2}}`:   nil,
		`{"id":1,"tags":["x"],"both":{"a":"1","c":2}}`: {"body/both: b is missing", "body/both/a: 1 is not of type [integer]", "body/both: c is not documented"},
		`{"id":1,"tags":["x"],"both":[]}`:              {"body/both: [] is not of type [object]"},
		`[]`:                                           {"body: [] is not of type [object]"},
		`{`:                                            {"body: is no JSON: unexpected EOF"},
		`{"id":1,"tags":["x"]} {}`:                     {"body: there is more after the JSON"},
	} {
		require.Equal(t, want, d.CheckRequest(d.Operations[0], []byte(body)), body)
	}
}

func TestABodyMayBeMissingOnlyWhereItIsOptional(t *testing.T) {
	t.Parallel()
	d := parse(t, small)
	require.Equal(t, []string{"body: is no JSON: EOF"}, d.CheckRequest(d.Operations[0], nil))
	d = parse(t, strings.Replace(small, "{required: true, content", "{content", 1))
	require.Empty(t, d.CheckRequest(d.Operations[0], nil))
	require.NotEmpty(t, d.CheckRequest(d.Operations[0], []byte(`{}`)))
}

func TestResponsesAreCheckedWhole(t *testing.T) {
	t.Parallel()
	d := parse(t, small)
	o := d.Operations[0]
	check := func(status int, body string, header http.Header) []string {
		return d.CheckResponse(o, status, header, []byte(body))
	}
	json := http.Header{"Content-Type": {"application/json; charset=utf-8"}, "Location": {"/things/1/"}}
	require.Empty(t, check(200, `{"id":1,"tags":["x"]}`, json))
	require.Empty(t, check(204, "", http.Header{}))
	require.Equal(t, []string{"the header Location is missing"}, check(200, `{"id":1,"tags":["x"]}`, http.Header{"Content-Type": {"application/json"}}))
	require.Equal(t, []string{"PUT /things/{id}/: status 201 is not documented"}, check(201, "", json))
	require.Equal(t, []string{"body: id is missing", "body/tags: 1 is not of type [array]"}, check(200, `{"tags":1,"name":"n"}`, json))
	require.Equal(t, []string{`the content type is "application/json", documented are [application/problem+json]`}, check(409, `{}`, json))
	require.Equal(t, []string{`the content type is "application/json", documented are []`}, check(204, `{}`, json))
	require.Equal(t, []string{"in-use", "gone"}, d.Codes(o, 409))
	require.Empty(t, d.Codes(o, 200))
	require.Equal(t, []int{200, 204, 409}, d.Statuses(o))
	require.Equal(t, "shop/things/write", o.Permission)
	require.False(t, o.Public)
}

func TestServicesAreWhatTheGatewayDoesNotAnswer(t *testing.T) {
	t.Parallel()
	d := parse(t, `paths: {/a: {get: {operationId: x, x-served-by: gateway}}, /b: {get: {operationId: y}}}`)
	require.True(t, d.Operations[0].Gateway)
	require.Equal(t, d.Operations[1:], d.Services())
}

func TestTheDescriptionItselfIsChecked(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`paths: {"/a/{id}": {get: {operationId: x}}}`:                                                                                       "GET /a/{id}: the path has the parameters [id], declared are []",
		`paths: {/a: {get: {operationId: x, x-served-by: nobody}}}`:                                                                         "GET /a: x-served-by is nobody, not gateway",
		`paths: {/a: {get: {}}}`:                                                                                                            "GET /a: the operationId <nil> is missing or not unique",
		`paths: {/a: {get: {operationId: x}, put: {operationId: x}}}`:                                                                       "PUT /a: the operationId x is missing or not unique",
		`paths: {/a: {get: {operationId: x, requestBody: {$ref: "#/components/no"}}}}`:                                                      "#/paths//a/get/requestBody: #/components/no leads nowhere",
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {oneOf: []}}}":                                                     `#/components/schemas/S: the validator does not know "oneOf"`,
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {allOf: [], type: object}}}":                                       "#/components/schemas/S: what stands beside allOf goes unchecked",
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {allOf: [{not: {}}]}}}":                                            `#/components/schemas/S/allOf/0: the validator does not know "not"`,
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {required: [a]}}}":                                                 "#/components/schemas/S: a is required but no property",
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {$ref: elsewhere}}}":                                               "#/components/schemas/S: elsewhere leads nowhere",
		"paths: {/a: {get: {operationId: x}}}\ncomponents: {schemas: {S: {type: object, properties: {p: {type: integer, examples: [x]}}}}}": "#/components/schemas/S/p/examples/0: x is not of type [integer]",
	} {
		require.Equal(t, []string{want}, parse(t, text).Check(), text)
	}
	_, err := contract.Parse([]byte("paths: ["))
	require.Error(t, err)
	_, err = contract.Parse([]byte("openapi: 3.1.0"))
	require.ErrorContains(t, err, "there are no paths")
	_, err = contract.Load("no such file")
	require.Error(t, err)
}
