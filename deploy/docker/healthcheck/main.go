// Command healthcheck asks a URL once and exits with 0 if the answer is 200, else
// with 1 and the reason on stderr. It is the HEALTHCHECK of images that hold no
// shell and no curl.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"
)

// timeout is shorter than that of HEALTHCHECK in the Dockerfiles.
const timeout = 3 * time.Second

func main() {
	if err := check(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "healthcheck:", err)
		os.Exit(1) //nolint:forbidigo // it is a command
	}
}

// check returns why the only argument, a URL, does not answer 200.
func check(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give one URL, such as http://127.0.0.1:9001/healthz")
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, args[0], nil) //nolint:gosec // the image names the URL
	if err != nil {
		return err
	}
	client := http.Client{Timeout: timeout}
	answer, err := client.Do(request) //nolint:gosec // the same
	if err != nil {
		return err
	}
	_ = answer.Body.Close() // the status is all that matters
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", args[0], answer.Status)
	}
	return nil
}
