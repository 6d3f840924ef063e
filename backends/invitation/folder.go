package invitation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Folder is a [Transport] that writes each mail as one .eml file, for
// development and tests.
type Folder struct {
	path string
}

// NewFolder returns a transport into the folder at path, which it makes if it
// does not exist. Only the owner can read it: mails hold tokens.
func NewFolder(path string) (*Folder, error) {
	if path == "" {
		return nil, errors.New("mail folder: the path is empty")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("mail folder: %w", err)
	}
	return &Folder{path: path}, nil
}

// Send writes m as <time>-<id>.eml. The file appears whole or not at all.
func (f *Folder) Send(_ context.Context, m Mail) (err error) {
	msg, err := m.message()
	if err != nil {
		return err
	}
	var content bytes.Buffer
	if _, err := msg.WriteTo(&content); err != nil {
		return fmt.Errorf("mail folder: %w", err)
	}
	file, err := os.CreateTemp(f.path, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("mail folder: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content.Bytes())
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("mail folder: %w", err)
	}
	name := m.Date.UTC().Format("20060102T150405.000") + "Z-" + m.ID + ".eml"
	if err := os.Rename(file.Name(), filepath.Join(f.path, name)); err != nil {
		return fmt.Errorf("mail folder: %w", err)
	}
	return nil
}

var _ Transport = (*Folder)(nil)
