package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Chromium is a running browser. It is driven by the DevTools protocol over a
// pair of pipes, file descriptors 3 and 4 of the browser, on which messages end
// with a zero byte.
type Chromium struct {
	in *os.File

	mu      sync.Mutex
	last    int
	waiting map[int]chan devtools
	events  []devtools
	gone    bool
}

// devtools is a message of the browser: the answer to a command, or an event.
type devtools struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// browser returns the path of Chromium, or skips the test.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	require.Empty(t, os.Getenv("TENANTGATE_REQUIRE_SERVICES"), "Chromium is required and was not found")
	t.Skip("skipped: Chromium was not found; install it or set CHROMIUM to see the invitation page in a browser")
	return ""
}

// startChromium runs the browser until the test ends.
func startChromium(t *testing.T, path string) *Chromium {
	t.Helper()
	theirs, in, err := os.Pipe()
	require.NoError(t, err)
	out, theirOut, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--lang=en-GB", "--remote-debugging-pipe", "about:blank")
	cmd.Env = append(os.Environ(), "TZ=UTC")
	cmd.ExtraFiles = []*os.File{theirs, theirOut}
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	require.NoError(t, theirOut.Close())
	c := &Chromium{in: in, waiting: map[int]chan devtools{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.read(bufio.NewReader(out))
	}()
	t.Cleanup(func() {
		_, _ = in.WriteString(`{"id":0,"method":"Browser.close"}` + "\x00")
		end := time.AfterFunc(secs(20), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // how it ends is not what is tested
		end.Stop()
		_ = in.Close()
		_ = out.Close()
		<-done
	})
	return c
}

// read takes the browser's messages until there are no more.
func (c *Chromium) read(from *bufio.Reader) {
	for {
		line, err := from.ReadBytes(0)
		c.mu.Lock()
		if err != nil {
			c.gone = true
			for _, waiting := range c.waiting {
				close(waiting)
			}
			c.mu.Unlock()
			return
		}
		var m devtools
		if json.Unmarshal(line[:len(line)-1], &m) == nil {
			if waiting, ok := c.waiting[m.ID]; ok && m.ID != 0 {
				delete(c.waiting, m.ID)
				waiting <- m
			} else {
				c.events = append(c.events, m)
			}
		}
		c.mu.Unlock()
	}
}

// call sends a command and returns its result.
func (c *Chromium) call(t *testing.T, session, method string, params any) json.RawMessage {
	t.Helper()
	answer := make(chan devtools, 1)
	c.mu.Lock()
	require.False(t, c.gone, "Chromium has ended")
	c.last++
	id := c.last
	c.waiting[id] = answer
	c.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if session != "" {
		message["sessionId"] = session
	}
	encoded, err := json.Marshal(message)
	require.NoError(t, err)
	_, err = c.in.Write(append(encoded, 0))
	require.NoError(t, err)
	select {
	case m, ok := <-answer:
		require.True(t, ok, "Chromium ended during %s", method)
		require.Nil(t, m.Error, "%s: %s", method, encoded)
		return m.Result
	case <-time.After(secs(60)):
		require.FailNow(t, "timeout", "%s: %s", method, encoded)
		return nil
	}
}

// seen returns the parameters of all events of a method so far.
func (c *Chromium) seen(method string) []json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []json.RawMessage
	for _, event := range c.events {
		if event.Method == method {
			all = append(all, event.Params)
		}
	}
	return all
}

type object = map[string]any

// Tab is a page of the browser with a size of its own.
type Tab struct {
	*Chromium
	session string
}

// open returns a new, empty tab.
func (c *Chromium) open(t *testing.T) *Tab {
	t.Helper()
	var target struct{ TargetID string }
	require.NoError(t, json.Unmarshal(c.call(t, "", "Target.createTarget", object{"url": "about:blank"}), &target))
	var attached struct{ SessionID string }
	require.NoError(t, json.Unmarshal(c.call(t, "", "Target.attachToTarget", object{"targetId": target.TargetID, "flatten": true}), &attached))
	tab := &Tab{c, attached.SessionID}
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		tab.do(t, domain+".enable", nil)
	}
	tab.do(t, "Emulation.setFocusEmulationEnabled", object{"enabled": true})
	return tab
}

func (p *Tab) do(t *testing.T, method string, params any) json.RawMessage {
	t.Helper()
	return p.call(t, p.session, method, params)
}

// size makes the window that wide; a phone has two pixels for one and a finger.
func (p *Tab) size(t *testing.T, width, height int, phone bool) {
	t.Helper()
	scale := 1
	if phone {
		scale = 2
	}
	p.do(t, "Emulation.setDeviceMetricsOverride", object{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone})
}

// dark chooses the colours that the person prefers.
func (p *Tab) dark(t *testing.T, dark bool) {
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.do(t, "Emulation.setEmulatedMedia", object{"features": []object{{"name": "prefers-color-scheme", "value": scheme}}})
}

// load opens a URL anew, even one that differs in the fragment only.
func (p *Tab) load(t *testing.T, url string) {
	t.Helper()
	p.do(t, "Page.navigate", object{"url": "about:blank"})
	p.do(t, "Page.navigate", object{"url": url})
}

// eval returns the value of a JavaScript expression, waiting for a promise.
func (p *Tab) eval(t *testing.T, expression string) any {
	t.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails any
	}
	result := p.do(t, "Runtime.evaluate", object{"expression": expression, "awaitPromise": true, "returnByValue": true})
	require.NoError(t, json.Unmarshal(result, &answer))
	require.Nil(t, answer.ExceptionDetails, "%s: %s", expression, result)
	return answer.Result.Value
}

// until waits for a condition in the page.
func (p *Tab) until(t *testing.T, condition string) {
	t.Helper()
	met := p.eval(t, `new Promise((done) => {
		const end = Date.now() + 20000;
		const look = () => { if (`+condition+`) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 10); };
		look();
	})`)
	require.Equal(t, true, met, "never: %s; the page is\n%v", condition, p.eval(t, "document.body.innerText"))
}

// keys are what the tests press, by their name in the protocol.
var keys = map[string]struct {
	code int
	text string
}{"Tab": {9, ""}, "Enter": {13, "\r"}, " ": {32, " "}, "Backspace": {8, ""}}

// press presses one key.
func (p *Tab) press(t *testing.T, key string) {
	t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		event := object{"type": kind, "key": key, "windowsVirtualKeyCode": keys[key].code}
		if kind == "keyDown" && keys[key].text != "" {
			event["text"] = keys[key].text
		}
		p.do(t, "Input.dispatchKeyEvent", event)
	}
}

// write puts text where the focus is, in place of what is selected, as a paste
// does.
func (p *Tab) write(t *testing.T, text string) {
	t.Helper()
	p.do(t, "Input.insertText", object{"text": text})
}

// tabTo presses Tab until the element with the id has the focus.
func (p *Tab) tabTo(t *testing.T, id string) {
	t.Helper()
	for range 10 {
		if p.eval(t, "document.activeElement.id") == id {
			return
		}
		p.press(t, "Tab")
	}
	require.FailNow(t, "not reached", "Tab does not lead to %s", id)
}

// screenshots is where pictures of the page for its documentation go.
const screenshots = root + "/docs/invitation"

// shoot writes a picture of the whole page if TENANTGATE_SCREENSHOTS is set.
func (p *Tab) shoot(t *testing.T, name string) {
	t.Helper()
	if os.Getenv("TENANTGATE_SCREENSHOTS") == "" {
		return
	}
	var shot struct{ Data string }
	require.NoError(t, json.Unmarshal(p.do(t, "Page.captureScreenshot", object{"format": "png", "captureBeyondViewport": true}), &shot))
	picture, err := base64.StdEncoding.DecodeString(shot.Data)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(screenshots, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(screenshots, name+".png"), picture, 0o644))
}

// requests returns every request that the tabs sent: its URL without the
// fragment, and its headers as they went out.
func (c *Chromium) requests(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, event := range c.seen("Network.requestWillBeSent") {
		var sent struct {
			Request struct {
				Method, URL string
				Headers     map[string]string
			}
		}
		require.NoError(t, json.Unmarshal(event, &sent))
		all = append(all, fmt.Sprint(sent.Request.Method, " ", sent.Request.URL, " ", sent.Request.Headers))
	}
	for _, event := range c.seen("Network.requestWillBeSentExtraInfo") {
		var sent struct{ Headers map[string]string }
		require.NoError(t, json.Unmarshal(event, &sent))
		all = append(all, fmt.Sprint(sent.Headers))
	}
	return all
}

// complaints returns what the browser found wrong with the pages: violations
// of their policy, errors of their scripts.
func (c *Chromium) complaints() []string {
	var all []string
	for _, method := range []string{"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} {
		for _, event := range c.seen(method) {
			// An answer that is an error is what some tests want.
			if !strings.Contains(string(event), `"source":"network"`) {
				all = append(all, string(event))
			}
		}
	}
	return all
}
