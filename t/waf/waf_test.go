package waf

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	txhttp "github.com/corazawaf/coraza/v3/http"
	"github.com/corazawaf/coraza/v3/types"

	"ngx-http-wasm-handler/examples/waf/conf"
	"ngx-http-wasm-handler/tck/harness/nginxtest"
)

// everything has all rules of the Core Rule Set match, and nothing refused: the
// settings that its tests are written for.
const everything = `{
  "paranoia_level": 4, "detection_only": true, "response_inspection": true,
  "before": ["SecAction \"id:900005,phase:1,nolog,pass,ctl:ruleRemoveById=910000,setvar:tx.crs_validate_utf8_encoding=1,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,setvar:tx.max_num_args=255,setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535\""]
}`

// usual is what an operator begins with, and responses inspected.
const usual = `{"response_inspection": true}`

// Server is one side of the comparison.
type server struct {
	addr string
	// rules that have matched since the last call.
	rules func() []int
}

// TestVerdicts is the comparison; -short sends every tenth test.
func TestVerdicts(t *testing.T) {
	guest, err := os.ReadFile("../../target/guests/waf.wasm")
	if err != nil {
		t.Fatalf("%v: make waf", err)
	}
	cases, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(answer))
	defer backend.Close()

	for _, mode := range []struct{ name, config string }{{"every rule, detection only", everything}, {"default settings", usual}} {
		t.Run(mode.name, func(t *testing.T) {
			ours, native := onNginx(t, guest, mode.config, backend.URL), onGo(t, mode.config)
			var passed [2]int
			var sent int
			differ := map[string][]string{}
			for i, c := range cases {
				if testing.Short() && i%10 != 0 {
					continue
				}
				sent++
				held := [2]bool{true, true}
				for n, stage := range c.Stages {
					a, b := ours.send(t, stage.Request), native.send(t, stage.Request)
					held[0] = held[0] && stage.holds(a.rules, a.status)
					held[1] = held[1] && stage.holds(b.rules, b.status)
					cause := a.differs(b)
					if cause == unexplained && absoluteTarget.Match(stage.Request) {
						cause = absolute
					}
					if cause != "" {
						differ[cause] = append(differ[cause], fmt.Sprintf("%s/%d: nginx %v, Go %v", c.Name, n+1, a, b))
					}
				}
				for side, ok := range held {
					if ok {
						passed[side]++
					}
				}
			}
			fmt.Printf("%s: %d tests; as expected: %d on nginx, %d in Go\n", mode.name, sent, passed[0], passed[1])
			for _, cause := range slices.Sorted(maps.Keys(differ)) {
				list := differ[cause]
				fmt.Printf("  %d requests differ: %s\n", len(list), cause)
				for _, line := range list[:min(len(list), 12)] {
					fmt.Printf("    %s\n", line)
				}
				if cause == unexplained {
					t.Errorf("%d requests get another verdict than in Go, first %s", len(list), list[0])
				}
			}
		})
	}
}

// verdict is what became of a request.
type verdict struct {
	status int
	rules  []int
}

func (v verdict) String() string { return fmt.Sprintf("%d %v", v.status, v.rules) }

// Causes of differences that are not the module's.
const (
	unexplained = "for no known reason"
	refusedHere = "nginx itself refuses the request, with 400 and the like"
	refusedGo   = "Go's server itself refuses the request"
	absolute    = "guests get path and query of a target, not scheme and host (get_uri of the ABI)"
)

var absoluteTarget = regexp.MustCompile(`^\S+ https?://`)

// differs is why two verdicts are not the same, or nothing.
func (v verdict) differs(other verdict) string {
	switch {
	case v.status == other.status && slices.Equal(v.rules, other.rules):
		return ""
	case len(v.rules) == 0 && (v.status == 0 || v.status >= 400 && v.status != 403):
		return refusedHere
	case len(other.rules) == 0 && (other.status == 0 || other.status >= 400 && other.status != 403):
		return refusedGo
	default:
		return unexplained
	}
}

// send sends a request on a connection of its own.
func (s *server) send(t *testing.T, request []byte) verdict {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	// A server that has refused the request may close before all of it is there.
	_, _ = conn.Write(request)
	// What is not answered is not waited for.
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	var v verdict
	if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		v.status = reply.StatusCode
		_, _ = io.Copy(io.Discard, reply.Body)
	}
	v.rules = s.rules()

	return v
}

var ruleID = regexp.MustCompile(`rule=\\?"(\d+)\\?"`)

// onNginx serves the guest in front of the backend.
func onNginx(t *testing.T, guest []byte, config, backend string) *server {
	s := nginxtest.Start(t, nginxtest.Config{
		Ports: 1, Workers: 1,
		Files: map[string][]byte{"waf.wasm": guest, "waf.json": []byte(config)},
		HTTP: `error_log ${dir}/waf.log info;
			client_max_body_size 0; ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
			large_client_header_buffers 8 64k; http_wasm_timeout 20s; http_wasm_memory_limit 512m;
			http_wasm_buffer_types text/plain text/html text/xml application/json application/xml;
			server {
				listen ${addr0};
				location / { http_wasm ${dir}/waf.wasm config_file=${dir}/waf.json; proxy_pass ` + backend + `; }
			}`,
	})
	log, err := os.Open(filepath.Join(s.Dir, "waf.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })

	return &server{s.Addrs[0], func() []int {
		text, _ := io.ReadAll(log)
		var ids []int
		for line := range strings.Lines(string(text)) {
			// The line that sums up a refusal names a rule that had its own.
			if m := ruleID.FindStringSubmatch(line); m != nil && !strings.Contains(line, "refused") {
				id, _ := strconv.Atoi(m[1])
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)

		return slices.Compact(ids)
	}}
}

// onGo serves Coraza's own middleware in front of the same backend.
func onGo(t *testing.T, config string) *server {
	parsed, err := conf.Parse(config)
	if err != nil {
		t.Fatal(err)
	}
	var mutex sync.Mutex
	var ids []int
	waf, err := parsed.NewWAF(func(match types.MatchedRule) {
		mutex.Lock()
		defer mutex.Unlock()
		ids = append(ids, match.Rule().ID())
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(txhttp.WrapHandler(waf, http.HandlerFunc(answer)))
	t.Cleanup(s.Close)

	return &server{s.Listener.Addr().String(), func() []int {
		mutex.Lock()
		defer mutex.Unlock()
		matched := ids
		ids = nil
		slices.Sort(matched)

		return slices.Compact(matched)
	}}
}

// answer answers as the rule set's tests want their backend to: what the
// request asks for at /reflect, and 200 otherwise.
func answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var wanted struct {
		Status      int
		Headers     map[string]string
		Body        string
		EncodedBody string
	}
	if r.URL.Path != "/reflect" || json.Unmarshal(body, &wanted) != nil {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, "ok")
		return
	}
	if wanted.EncodedBody != "" {
		text, _ := base64.StdEncoding.DecodeString(wanted.EncodedBody)
		wanted.Body = string(text)
	}
	w.Header().Set("Content-Type", "text/plain")
	for name, value := range wanted.Headers {
		w.Header().Set(name, value)
	}
	if wanted.Status != 0 {
		w.WriteHeader(wanted.Status)
	}
	_, _ = io.WriteString(w, wanted.Body)
}
