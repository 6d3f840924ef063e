package invitation

import (
	"io/fs"
	"net/http"
)

// NewPage is newPage; it returns what answers GET /invite.
func NewPage(files fs.FS, defaultLocale string) (serve func(http.ResponseWriter, *http.Request) error, err error) {
	p, err := newPage(files, defaultLocale)
	if err != nil {
		return nil, err
	}
	return p.serve, nil
}
