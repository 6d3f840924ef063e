package e2e

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

// The page that `make reliability` writes its numbers into, between two marks.
const (
	reliabilityPage = root + "/docs/reliability.md"
	numbersBegin    = "<!-- written by `make reliability`: begin -->\n"
	numbersEnd      = "<!-- written by `make reliability`: end -->\n"
)

var report struct {
	sync.Mutex
	faults, numbers []string
}

// reportFault notes a row of the table of faults.
func reportFault(name string, sent, wrong int, calm, during, agreed time.Duration) {
	report.Lock()
	defer report.Unlock()
	report.faults = append(report.faults, fmt.Sprintf("| %s | %d | **%d** | %s | %s | %s | %s |\n",
		name, sent, wrong, round(calm), round(during), round(max(0, during-calm)), round(agreed)))
}

// reportNumber notes another figure.
func reportNumber(what, figure string) {
	report.Lock()
	defer report.Unlock()
	report.numbers = append(report.numbers, fmt.Sprintf("| %s | %s |\n", what, figure))
}

// round makes a time fit for reading.
func round(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// writeReport puts the numbers into the page. It does nothing unless everything
// was measured.
func writeReport() error {
	if !measuring || len(report.faults) == 0 || len(report.numbers) == 0 {
		return nil
	}
	page, err := os.ReadFile(reliabilityPage)
	if err != nil {
		return err
	}
	head, rest, ok := bytes.Cut(page, []byte(numbersBegin))
	_, tail, ok2 := bytes.Cut(rest, []byte(numbersEnd))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the marks between which the numbers go", reliabilityPage)
	}
	text := fmt.Sprintf("%d cores, %s/%s, %s.\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()) +
		"| what happens to Redis | requests | answered wrongly | p99 before | p99 during | added | all agree after |\n|---|---|---|---|---|---|---|\n" +
		strings.Join(report.faults, "") + "\n| what | figure |\n|---|---|\n" + strings.Join(report.numbers, "")
	return os.WriteFile(reliabilityPage, bytes.Join([][]byte{head, []byte(numbersBegin), []byte(text), []byte(numbersEnd), tail}, nil), 0o600)
}
