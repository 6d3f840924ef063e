package permission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	core "github.com/tenantgate/tenantgate/internal/permission"
	"github.com/tenantgate/tenantgate/internal/problem"
)

const (
	// maxQuestions is how many permissions one body may ask about.
	maxQuestions = 1000
	// maxBody bounds a body in bytes: it holds maxQuestions of the longest names.
	maxBody = 256 << 10
	// maxFaults is how many wrong fields a problem names.
	maxFaults = 20
)

// readPermissions reads the body {"permissions": ["product/feature/action", …]}.
// The problems are those of the backends.
func readPermissions(r *http.Request) ([]core.Permission, *problem.Error) {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return nil, problem.New(http.StatusUnsupportedMediaType, "not-json", "Send the body as application/json.")
	}
	var body struct {
		Permissions *[]string `json:"permissions"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&body)
	if err == nil {
		if err = decoder.Decode(&struct{}{}); errors.Is(err, io.EOF) {
			return permissionsIn(body.Permissions)
		}
		if !errors.As(err, new(*http.MaxBytesError)) {
			return nil, problem.New(http.StatusBadRequest, "bad-json", "The body must be one JSON object.")
		}
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		return nil, problem.New(http.StatusRequestEntityTooLarge, "body-too-large", fmt.Sprintf("The body may have at most %d bytes.", maxBody))
	}
	return nil, problem.New(http.StatusBadRequest, "bad-json", jsonFault(err))
}

// jsonFault says what is wrong with a body.
func jsonFault(err error) string {
	var (
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
	)
	switch {
	case errors.Is(err, io.EOF):
		return "The body is empty: send a JSON object."
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "The JSON in the body ends too early."
	case errors.As(err, &syntax):
		return fmt.Sprintf("The body is not valid JSON at byte %d.", syntax.Offset)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Sprintf("%q must be an array of strings.", "permissions")
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return "The body has an unknown field: " + strings.TrimPrefix(err.Error(), "json: unknown field ") + "."
	}
	return "The body must be one JSON object."
}

// permissionsIn reads each name, or says which are none.
func permissionsIn(names *[]string) ([]core.Permission, *problem.Error) {
	const pointer = "/permissions"
	switch {
	case names == nil:
		return nil, invalid(problem.Field{Pointer: pointer, Code: "required", Detail: "This field is required."})
	case len(*names) > maxQuestions:
		return nil, invalid(problem.Field{Pointer: pointer, Code: "too-many", Detail: fmt.Sprintf("Ask about at most %d permissions at once.", maxQuestions)})
	}
	var faults []problem.Field
	permissions := make([]core.Permission, len(*names))
	for i, name := range *names {
		var err error
		if permissions[i], err = core.ParsePermission(name); err != nil && len(faults) < maxFaults {
			faults = append(faults, problem.Field{
				Pointer: pointer + "/" + strconv.Itoa(i), Code: "invalid",
				Detail: "Write product/feature/action, each of a-z, 0-9, _ and -.",
			})
		}
	}
	if faults != nil {
		return nil, invalid(faults...)
	}
	return permissions, nil
}

func invalid(fields ...problem.Field) *problem.Error {
	p := problem.New(http.StatusUnprocessableEntity, "invalid-fields", "Some fields are not valid; see errors.")
	p.Fields = fields
	return p
}
