package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// load is one closed-loop load: every connection sends its next request when
// the answer to the last one is complete. It speaks HTTP/1.1 itself, because
// net/http's client would take as much CPU as the proxy that is measured.
type load struct {
	address, path string
	tokens        []string
	conns         int
	duration      time.Duration
}

// measured is what one load saw.
type measured struct {
	// Requests were all answered with 200.
	Requests int
	// Seconds is how long it took.
	Seconds float64
	// P50 and P99 are latencies in milliseconds.
	P50, P99 float64
}

// readTokens reads one token a line.
func (l *load) readTokens(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	l.tokens = strings.Fields(string(content))
	if len(l.tokens) == 0 {
		return fmt.Errorf("%s holds no token", file)
	}
	return nil
}

// run loads until the duration is over. Any answer but 200 ends it with an error.
func (l *load) run(ctx context.Context) (measured, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	connections := make([]net.Conn, l.conns)
	for i := range connections {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", l.address)
		if err != nil {
			return measured{}, err
		}
		defer conn.Close()
		connections[i] = conn
	}
	start := time.Now()
	end := start.Add(l.duration)
	latencies := make(chan []time.Duration, l.conns)
	for i, conn := range connections {
		go func() {
			taken, err := l.loop(ctx, conn, l.tokens[i%len(l.tokens)], end)
			if err != nil {
				cancel(err)
			}
			latencies <- taken
		}()
	}
	var all []time.Duration
	for range connections {
		all = append(all, <-latencies...)
	}
	seconds := time.Since(start).Seconds()
	if err := context.Cause(ctx); err != nil {
		return measured{}, err
	}
	if len(all) == 0 {
		return measured{}, errors.New("no answer within the load's duration")
	}
	slices.Sort(all)
	ms := func(p int) float64 { return float64(all[(len(all)-1)*p/100].Microseconds()) / 1000 }
	return measured{Requests: len(all), Seconds: seconds, P50: ms(50), P99: ms(99)}, nil
}

// loop sends requests on one connection until end and returns their latencies.
func (l *load) loop(ctx context.Context, conn net.Conn, token string, end time.Time) ([]time.Duration, error) {
	// Far past the end: it only keeps a hanging proxy from hanging us.
	if err := conn.SetDeadline(end.Add(10 * time.Second)); err != nil {
		return nil, err
	}
	request := []byte("GET " + l.path + " HTTP/1.1\r\nHost: " + l.address + "\r\nAuthorization: Bearer " + token + "\r\n\r\n")
	reader := bufio.NewReaderSize(conn, 8<<10)
	var taken []time.Duration
	for now := time.Now(); now.Before(end) && ctx.Err() == nil; {
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := readAnswer(reader); err != nil {
			return nil, err
		}
		done := time.Now()
		taken = append(taken, done.Sub(now))
		now = done
	}
	return taken, nil
}

var contentLength = []byte("Content-Length")

// readAnswer reads one answer and wants status 200 and a Content-Length.
func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("the proxy answered %q: %s", textproto.TrimBytes(status), rest)
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if line = textproto.TrimBytes(line); len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, contentLength) {
			if length, err = strconv.Atoi(string(textproto.TrimBytes(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("the answer has no Content-Length")
	}
	if _, err := r.Discard(length); err != nil {
		return fmt.Errorf("read the body: %w", io.ErrUnexpectedEOF)
	}
	return nil
}
