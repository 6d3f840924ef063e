package loki

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tenantgate/tenantgate/caddymodules/operator"
)

// maxTraceLine is the longest line of a file that is looked at.
const maxTraceLine = 1 << 20

// defaultTracePatterns returns where the Caddyfile and `tenantgate dev` write
// lines, and what became of these files when they were full.
func defaultTracePatterns() []string {
	file := cmp.Or(os.Getenv("TENANTGATE_LOG_FILE"), "tenantgate.log")
	extension := filepath.Ext(file)
	return []string{file, strings.TrimSuffix(file, extension) + "-*" + extension + "*", "data/logs/*.jsonl*"}
}

// lookInFiles adds the lines of the files, of those in the usual places if none is
// named, and returns what it looked through.
func lookInFiles(ctx context.Context, found *traceLines, patterns []string) (where string, err error) {
	named := len(patterns) > 0
	if !named {
		patterns = defaultTracePatterns()
	}
	files, err := traceFiles(patterns, named)
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("no log file is here (%s): name one with --file, or Loki's address with --loki", strings.Join(patterns, ", "))
	}
	for _, name := range files {
		if err := found.addFile(ctx, name); err != nil {
			return "", err
		}
	}
	if len(files) == 1 {
		return files[0], nil
	}
	return fmt.Sprintf("%d files", len(files)), nil
}

// traceFiles returns the files of the patterns, each once. A pattern that names
// none is an error if it must name one.
func traceFiles(patterns []string, must bool) ([]string, error) {
	var files []string
	for _, pattern := range patterns {
		names := []string{pattern}
		if _, err := os.Stat(pattern); err != nil { // a file's name can look like a pattern
			if names, err = filepath.Glob(pattern); err != nil {
				return nil, operator.Usagef("--file %s: it is no file, and no pattern such as 'logs/*.jsonl'", pattern)
			}
		}
		if len(names) == 0 && must {
			return nil, fmt.Errorf("--file %s: there is no such file", pattern)
		}
		for _, name := range names {
			if !slices.Contains(files, name) {
				files = append(files, name)
			}
		}
	}
	return files, nil
}

// addFile adds the lines of a file, which may be compressed, and may be written or
// deleted meanwhile.
func (f *traceLines) addFile(ctx context.Context, name string) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) { // rotated just now: it is there under another name
		return nil
	}
	if err != nil {
		return err
	}
	// Ends the reading of a pipe, which may have nothing to say.
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	defer func() {
		stop()
		_ = file.Close() // only read
	}()
	err = f.addContent(ctx, file)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*fs.PathError)):
		return err
	case err != nil: // of the compression
		f.broken = append(f.broken, name)
	}
	return nil
}

// addContent adds the lines of a file's content.
func (f *traceLines) addContent(ctx context.Context, r io.Reader) error {
	plain, closeReader, err := decompressed(bufio.NewReader(r))
	if err != nil {
		return err
	}
	defer closeReader()
	lines := bufio.NewReaderSize(plain, maxTraceLine+1)
	id := []byte(f.id)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			f.tooLong++
			if err := skipLine(lines); err != nil {
				return endOfFile(err)
			}
			continue
		case err != nil:
			if json.Valid(line) { // else it is being written
				f.addFromFile(bytes.TrimSpace(line), id)
			}
			return endOfFile(err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		f.addFromFile(bytes.TrimSpace(line), id)
	}
}

// addFromFile adds a line if it has the id. It looks closer at no other.
func (f *traceLines) addFromFile(line, id []byte) {
	switch {
	case len(line) == 0:
	case line[0] != '{':
		f.noJSON++
	case bytes.Contains(line, id):
		f.add(line, time.Time{})
	}
}

// skipLine reads up to the end of a line.
func skipLine(r *bufio.Reader) error {
	for {
		if _, err := r.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// endOfFile is nil for the end of a file.
func endOfFile(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// decompressed returns what a file holds: rotated ones are gzip or zstd.
func decompressed(r *bufio.Reader) (plain io.Reader, closeReader func(), err error) {
	magic, _ := r.Peek(4) // a shorter file is plain
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		unzip, err := gzip.NewReader(r)
		return unzip, func() {}, err
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		unzip, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, nil, err
		}
		return unzip, unzip.Close, nil
	}
	return r, func() {}, nil
}
