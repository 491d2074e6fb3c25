package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ngx-http-wasm-handler/examples/waf/conf"
)

// The part "waf" of the benchmark: the firewall of examples/waf, and what else runs such rules. It runs only where it is
// asked for, and has results and a place on the page of its own.

// Waf is what it has found.
type Waf struct {
	Machine []string
	When    string
	Quick   bool
	Conns   int
	Peers   []WafPeer
	Jobs    []WafJob
	Targets []Target
}

// WafPeer is one way to run the rules, with what does not depend on a job.
type WafPeer struct {
	Name string
	// Memory with responses not inspected, and inspected.
	Memory [2]WafMemory
	// Cold and Warm are milliseconds from the start of the server to its first answer, with an empty cache of compiled
	// guests and with one that is filled; Test is "nginx -t" with a filled one.
	Cold       float64
	Warm, Test Stat
	// Failed is why there are no figures.
	Failed string
}

// WafMemory is what the process took at most, and what it takes in the end with its share of shared pages, in kilobytes.
type WafMemory struct{ Peak, Share int }

// WafJob is one kind of request.
type WafJob struct {
	Key, Title string
	Rows       []WafRow
}

// WafRow is one peer doing one job.
type WafRow struct {
	Peer string
	// CPU is microseconds per request, Least those of the round in which it took least: what else the machine does can
	// only add to it. Ratio is of the least, to native Coraza.
	CPU          Stat
	Least, Ratio float64
	// P99 and Slowest are milliseconds, of all requests of all rounds.
	P99, Slowest float64
	Requests     int
}

// Names of these peers.
const (
	wafNative    = "Coraza in a Go server"
	wafReused    = "this module"
	wafUnsliced  = "this module, `http_wasm_slice off`"
	wafFresh     = "this module, an instance for each request, from a snapshot"
	wafReference = "reference host"
	wafLib       = "libmodsecurity"
)

// wafPeer is how one of them is run.
type wafPeer struct {
	WafPeer
	kind Kind
	// conf goes into the location: %s is the guest and its configuration, or the file of rules.
	conf string
	// only are the jobs that it does, all if there are none.
	only []string
	// cuts is a peer that refuses a response by closing the connection: it has sent the header by then.
	cuts bool
	// optional is a peer that may fail: it is on the page with the reason.
	optional bool
	// servers with responses not inspected, and inspected.
	servers [2]*Server
	ports   [2]int
	samples map[string][]Sample
	micros  map[string][]int64
}

func (p *wafPeer) does(key string) bool {
	return p.Failed == "" && (len(p.only) == 0 || slices.Contains(p.only, key))
}

// isNginx says whether it is one, as opposed to a server in Go.
func (p *wafPeer) isNginx() bool { return p.kind != corazaServer && p.kind != referenceHost }

// cached says whether it compiles guests and keeps them.
func (p *wafPeer) cached() bool { return p.kind == ours }

// wafPool lets requests wait for an instance for longer than the usual second: a slow or busy machine takes several for a
// few large forms, and refused requests are no measurement.
const wafPool = "http_wasm_pool wait=60s;"

func wafPeers() []*wafPeer {
	peers := []*wafPeer{
		{WafPeer: WafPeer{Name: bare}, kind: plain},
		{WafPeer: WafPeer{Name: wafNative}, kind: corazaServer},
		{WafPeer: WafPeer{Name: wafReused}, kind: ours, conf: "http_wasm %s; " + wafPool},
		{WafPeer: WafPeer{Name: wafUnsliced}, kind: ours, conf: "http_wasm %s; http_wasm_slice off; " + wafPool},
		{WafPeer: WafPeer{Name: wafFresh}, kind: ours, conf: "http_wasm %s; http_wasm_isolation request; http_wasm_snapshot on; " + wafPool},
		{WafPeer: WafPeer{Name: wafReference}, kind: referenceHost, optional: true, only: []string{"inspected"}},
		{WafPeer: WafPeer{Name: wafLib}, kind: modSecurity, conf: "modsecurity on; modsecurity_rules_file %s;", cuts: true},
	}
	for _, p := range peers {
		p.samples, p.micros = make(map[string][]Sample), make(map[string][]int64)
	}

	return peers
}

// wafJob is one kind of request: a harmless one, which is measured, and an attack.
type wafJob struct {
	key, title       string
	harmless, attack Request
	// inspects is whether responses are inspected.
	inspects bool
	// rounds of millis each.
	rounds, millis int
}

const (
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"
	script   = "<script>alert(document.cookie)</script>"
)

func wafJobs(page string) []*wafJob {
	args := url.Values{"q": {"what is new"}, "page": {"2"}, "sort": {"price"}, "category": {"garden chairs"}, "in_stock": {"1"},
		"return": {"list"}}
	form := func(comment string) string {
		fields := url.Values{"name": {"Somebody"}, "city": {"Paris"}, "comment": {comment}}
		for i := 0; len(fields.Encode()) < 10<<10-600; i++ {
			fields.Set("text"+strconv.Itoa(i), string(prose(500 + i)[:500]))
		}
		return fields.Encode()
	}
	order := func(comment string) string {
		var items []string
		for i := range 8 {
			items = append(items, fmt.Sprintf(`{"id": %d, "name": "garden chair %d", "price": %d.50, "tags": ["wood", "outdoor"]}`, 1000+i, i, 20+i))
		}
		return fmt.Sprintf(`{"customer": {"name": "Somebody", "city": "Paris", "newsletter": true}, "comment": "%s", "items": [%s]}`,
			comment, strings.Join(items, ", "))
	}
	ok := func(method, path, mime, body string) Request {
		return Request{Method: method, Path: path, Type: mime, Body: body, Status: 200, Answer: siteText}
	}
	refused := func(method, path, mime, body string) Request {
		return Request{Method: method, Path: path, Type: mime, Body: body, Status: 403}
	}
	const greeting = "please leave it at the door, thank you"
	html := Request{Method: "GET", Path: sitePage, Status: 200, Answer: page}

	return []*wafJob{
		{key: "get", title: "GET", rounds: 8, millis: 400, harmless: ok("GET", "/", "", ""), attack: refused("GET", "/.git/config", "", "")},
		{key: "args", title: "GET, 6 arguments", rounds: 8, millis: 400, harmless: ok("GET", "/search?"+args.Encode(), "", ""),
			attack: refused("GET", "/search?"+args.Encode()+"&c="+url.QueryEscape(script), "", "")},
		{key: "json", title: "JSON, 1 KB", rounds: 5, millis: 1200, harmless: ok("POST", "/order", jsonType, order(greeting)),
			attack: refused("POST", "/order", jsonType, order(script))},
		{key: "form", title: "form, 10 KB", rounds: 3, millis: 2000, harmless: ok("POST", "/letter", formType, form(greeting)),
			attack: refused("POST", "/letter", formType, form(script))},
		{key: "page", title: "HTML, 10 KB, not inspected", rounds: 8, millis: 400, harmless: html,
			attack: Request{Method: "GET", Path: siteLeak, Status: 200, Answer: siteLeakText}},
		{key: "inspected", title: "HTML, 10 KB, inspected", rounds: 8, millis: 400, harmless: html,
			attack: refused("GET", siteLeak, "", ""), inspects: true},
	}
}

// htmlPage is a page of about so many bytes.
func htmlPage(size int) string {
	var page strings.Builder
	page.WriteString("<!DOCTYPE html>\n<html lang=\"en\"><head><title>News</title><meta charset=\"utf-8\"></head>\n<body>\n")
	for i := 0; page.Len() < size; i++ {
		fmt.Fprintf(&page, "<article id=\"n%d\"><h2>News of day %[1]d</h2><p class=\"text\">%s</p><a href=\"/news?day=%[1]d\">more</a></article>\n",
			i, strings.TrimSpace(string(prose(300+i))))
	}
	page.WriteString("</body></html>\n")

	return page.String()
}

// wafBed is everything that serves.
type wafBed struct {
	s       *Settings
	page    string
	configs [2]string
	up      upstreams
	backend *Server
	peers   []*wafPeer
	jobs    []*wafJob
}

const wafConns = 4

// runWaf is this part of the benchmark.
func runWaf(s *Settings) (*Waf, error) {
	b := &wafBed{s: s, page: htmlPage(10 << 10), peers: wafPeers()}
	b.jobs = wafJobs(b.page)
	starts := 3
	if s.Quick {
		starts = 1
		for _, job := range b.jobs {
			job.rounds = 1
		}
	}
	result := &Waf{Machine: wafMachine(s), When: time.Now().UTC().Format("2006-01-02"), Quick: s.Quick, Conns: wafConns}
	defer b.stop()
	if err := b.prepare(); err != nil {
		return nil, err
	}
	began := time.Now()
	progress := func(what string) { fmt.Printf("%4.0f s: %s\n", time.Since(began).Seconds(), what) }
	fmt.Printf("%s\n\n", strings.Join(result.Machine, "\n"))
	progress("firewalls are started, with what they compile")
	if err := b.starts(starts); err != nil {
		return nil, err
	}
	progress("servers are prepared")
	if err := b.serve(); err != nil {
		return nil, err
	}
	if err := b.agree(); err != nil {
		return nil, err
	}
	progress("all answer the harmless requests alike, and refuse the others")
	for _, job := range b.jobs {
		progress(job.title)
		if err := b.measure(job); err != nil {
			return nil, err
		}
		result.Jobs = append(result.Jobs, b.result(job))
	}
	for _, p := range b.peers {
		for i, server := range p.servers {
			if server == nil || p.Failed != "" {
				continue
			}
			var err error
			if p.Memory[i], err = peakMemory(server.pid); err != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		result.Peers = append(result.Peers, p.WafPeer)
	}
	result.Targets = wafTargets(result)

	return result, nil
}

// prepare writes what servers read: the page, and the configuration of the guest with responses inspected and not.
func (b *wafBed) prepare() error {
	text, err := os.ReadFile(b.s.WafConfig)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.s.Dir, "waf")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.s.Dir, "www", sitePage), []byte(b.page), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(b.s.WafGuest); err != nil {
		return fmt.Errorf("the firewall is not built: make waf: %w", err)
	}
	const inspects = `"response_inspection": true`
	if strings.Count(string(text), inspects) != 1 {
		return fmt.Errorf("%s does not have %s, which is to be switched", b.s.WafConfig, inspects)
	}
	for i := range b.configs {
		b.configs[i] = strings.Replace(string(text), inspects, `"response_inspection": `+strconv.FormatBool(i == 1), 1)
		if err := os.WriteFile(b.file(i, "json"), []byte(b.configs[i]), 0o644); err != nil {
			return err
		}
		rules, err := modSecurityRules(b.configs[i])
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.file(i, "conf"), []byte(rules), 0o644); err != nil {
			return err
		}
	}
	for _, p := range b.peers {
		for i := range p.ports {
			if p.ports[i], err = freePort(); err != nil {
				return err
			}
		}
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	b.up.quick = "127.0.0.1:" + strconv.Itoa(port)
	b.backend, err = startNginx(b.s, "waf-site", b.s.LoadCPU, nginxConf(b.s, plain, upstreams{}, siteBlock(port)), port)

	return err
}

func (b *wafBed) file(inspects int, ext string) string {
	return filepath.Join(b.s.Dir, "waf", [2]string{"requests", "responses"}[inspects]+"."+ext)
}

// modSecurityRules are Debian's rules with the settings of the guest's configuration.
func modSecurityRules(config string) (string, error) {
	c, err := conf.Parse(config)
	if err != nil {
		return "", err
	}
	lines := []string{
		"Include /etc/nginx/modsecurity.conf",
		"SecRuleEngine On",
		"SecAuditEngine Off",
		// Nobody is told of the version that runs here.
		"SecStatusEngine Off",
		fmt.Sprintf("SecRequestBodyLimit %d", c.RequestBodyLimit),
		fmt.Sprintf("SecRequestBodyNoFilesLimit %d", c.RequestBodyNoFilesLimit),
		"SecResponseBodyAccess " + map[bool]string{false: "Off", true: "On"}[c.ResponseInspection],
		"SecResponseBodyMimeType " + strings.Join(conf.Inspected, " "),
		fmt.Sprintf("SecResponseBodyLimit %d", c.ResponseBodyLimit),
		"Include /etc/modsecurity/crs/crs-setup.conf",
	}
	lines = append(lines, c.Before...)
	lines = append(lines, "Include /usr/share/modsecurity-crs/rules/*.conf")

	return strings.Join(append(lines, c.After...), "\n") + "\n", nil
}

// name of a server of a peer, and of its directory.
func (b *wafBed) name(p *wafPeer, inspects int) string {
	return "waf-" + strconv.Itoa(slices.Index(b.peers, p)) + [2]string{"", "-responses"}[inspects]
}

func (b *wafBed) cache(p *wafPeer) string {
	return filepath.Join(b.s.Dir, "waf", "cache-"+strconv.Itoa(slices.Index(b.peers, p)))
}

// conf is nginx's configuration for a peer.
func (b *wafBed) conf(p *wafPeer, inspects int) string {
	rules := b.file(inspects, "conf")
	cache := ""
	if p.kind == ours {
		rules = b.s.WafGuest + " config_file=" + b.file(inspects, "json")
		cache = "    http_wasm_cache_path " + b.cache(p) + ";\n"
	}
	block := location(p.ports[inspects], strings.ReplaceAll(p.conf, "%s", rules), toQuick, "")

	return nginxConf(b.s, p.kind, b.up, cache+block)
}

// start runs one server of a peer, until it listens.
func (b *wafBed) start(p *wafPeer, cpu, inspects int) (*Server, error) {
	port := p.ports[inspects]
	switch p.kind {
	case corazaServer:
		return startSelf(b.s, cpu, "coraza", corazaOrders{port, b.configs[inspects], []byte(b.page)}, port)
	case referenceHost:
		cell := referenceCell{Port: port, Guest: b.s.WafGuest, Config: b.configs[inspects], Page: []byte(b.page)}
		return startSelf(b.s, cpu, "reference", []referenceCell{cell}, port)
	default:
		return startNginx(b.s, b.name(p, inspects), cpu, b.conf(p, inspects), port)
	}
}

// first is the first job that a peer does.
func (b *wafBed) first(p *wafPeer) *wafJob {
	for _, job := range b.jobs {
		if p.does(job.key) {
			return job
		}
	}

	return b.jobs[0]
}

// firstAnswer is how many milliseconds it takes from the start of a server to its first answer, on all CPUs.
func (b *wafBed) firstAnswer(p *wafPeer) (float64, error) {
	job := b.first(p)
	began := time.Now()
	server, err := b.start(p, everyCPU, job.inspected())
	if err != nil {
		return 0, err
	}
	defer server.stop()
	if err := job.harmless.send(newClient(0), p.ports[job.inspected()]); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, server.complaints())
	}

	return float64(time.Since(began).Microseconds()) / 1e3, nil
}

// starts measures starts: once with an empty cache, and in rounds with a filled one.
func (b *wafBed) starts(rounds int) (err error) {
	for _, p := range b.peers {
		if !p.cached() {
			continue
		}
		if err := os.RemoveAll(b.cache(p)); err != nil {
			return err
		}
		if p.Cold, err = b.firstAnswer(p); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	warm, test := make(map[*wafPeer][]float64), make(map[*wafPeer][]float64)
	for round := range rounds {
		for i := range b.peers {
			p := b.peers[(i+round)%len(b.peers)]
			if p.kind == referenceHost && round > 0 {
				continue // compiles each time, which takes long
			}
			took, err := b.firstAnswer(p)
			if err != nil && p.optional {
				p.Failed = err.Error()
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			warm[p] = append(warm[p], took)
			if !p.isNginx() {
				continue
			}
			took, _, err = testOnce(b.s, filepath.Join(b.s.Dir, b.name(p, 0)))
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			test[p] = append(test[p], took)
		}
	}
	for _, p := range b.peers {
		p.Warm, p.Test = stat(warm[p]), stat(test[p])
		if p.kind == referenceHost {
			p.Cold, p.Warm = p.Warm.Median, Stat{} // it has no cache
		}
	}

	return nil
}

// serve starts all servers, on the worker's core; what is to be compiled has all of them before.
func (b *wafBed) serve() error {
	for _, p := range b.peers {
		for i := range p.servers {
			if !slices.ContainsFunc(b.jobs, func(job *wafJob) bool { return job.inspected() == i && p.does(job.key) }) {
				continue
			}
			if p.cached() && i == 1 {
				if err := b.fill(p, i); err != nil {
					return fmt.Errorf("%s: %w", p.Name, err)
				}
			}
			var err error
			if p.servers[i], err = b.start(p, b.s.WorkerCPU, i); err != nil {
				if !p.optional {
					return fmt.Errorf("%s: %w", p.Name, err)
				}
				p.Failed = err.Error()
			}
		}
	}

	return nil
}

// fill puts what a server needs into the cache.
func (b *wafBed) fill(p *wafPeer, inspects int) error {
	prefix := filepath.Join(b.s.Dir, b.name(p, inspects))
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(prefix, "nginx.conf"), []byte(b.conf(p, inspects)), 0o644); err != nil {
		return err
	}
	_, _, err := testOnce(b.s, prefix)

	return err
}

func (j *wafJob) inspected() int {
	if j.inspects {
		return 1
	}

	return 0
}

// agree has every peer do every job once, and an attack of the same kind: firewalls refuse it, and nginx without one does
// not.
func (b *wafBed) agree() error {
	var wrong []string
	for _, p := range b.peers {
		for _, job := range b.jobs {
			if !p.does(job.key) {
				continue
			}
			at := job.inspected()
			err := job.harmless.send(newClient(0), p.ports[at])
			if err == nil {
				err = b.refuses(p, job)
			}
			if err != nil && p.optional {
				p.Failed = fmt.Sprintf("%s: %v", job.title, err)
				break
			}
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("%s, %s: %v\n%s", job.title, p.Name, err, p.servers[at].complaints()))
			}
		}
	}
	if len(wrong) > 0 {
		return errors.New("firewalls answer differently:\n" + strings.Join(wrong, "\n"))
	}

	return nil
}

func (b *wafBed) refuses(p *wafPeer, job *wafJob) error {
	attack := job.attack
	if p.kind == plain {
		attack.Status, attack.Answer = 200, ""
	}
	err := attack.send(newClient(0), p.ports[job.inspected()])
	if p.cuts && job.inspects {
		if err == nil || !errors.Is(err, io.EOF) {
			return fmt.Errorf("attack: expected a connection that is closed, got: %w", cmp.Or(err, errors.New("an answer")))
		}
		err = nil
	}
	if err == nil && p.kind != plain {
		// It is the request that is refused, not the one who sends it.
		err = job.harmless.send(newClient(0), p.ports[job.inspected()])
	}
	if err != nil {
		return fmt.Errorf("attack: %w", err)
	}

	return nil
}

// measure has all peers do a job in rounds, each beginning with another peer.
func (b *wafBed) measure(job *wafJob) error {
	// Instances start, and pools fill: in the background, if there is an instance already.
	for _, p := range b.peers {
		if !p.does(job.key) {
			continue
		}
		if _, err := load(b.s, &job.harmless, p.ports[job.inspected()], wafConns, 1000); err != nil {
			if err := p.fails(job, err); err != nil {
				return err
			}
		}
	}
	for round := range job.rounds {
		for i := range b.peers {
			p := b.peers[(i+round)%len(b.peers)]
			if !p.does(job.key) {
				continue
			}
			server := p.servers[job.inspected()]
			before, err := server.cpuNanos()
			if err != nil {
				return err
			}
			began := time.Now()
			micros, err := load(b.s, &job.harmless, p.ports[job.inspected()], wafConns, job.millis)
			if err != nil {
				if err := p.fails(job, err); err != nil {
					return err
				}
				continue
			}
			took := time.Since(began)
			after, err := server.cpuNanos()
			if err != nil {
				return err
			}
			n := float64(len(micros))
			p.samples[job.key] = append(p.samples[job.key], Sample{RPS: n / took.Seconds(), CPU: float64(after-before) / 1e3 / n})
			p.micros[job.key] = append(p.micros[job.key], micros...)
		}
	}

	return nil
}

// fails notes why a peer has no figures, if there may be such a peer.
func (p *wafPeer) fails(job *wafJob, err error) error {
	if p.optional {
		p.Failed = fmt.Sprintf("%s: %v", job.title, err)
		return nil
	}

	return fmt.Errorf("%s, %s: %w\n%s", job.title, p.Name, err, p.servers[job.inspected()].complaints())
}

func (b *wafBed) result(job *wafJob) WafJob {
	result := WafJob{Key: job.key, Title: job.title}
	least := func(p *wafPeer) float64 {
		return slices.MinFunc(p.samples[job.key], func(a, b Sample) int { return cmp.Compare(a.CPU, b.CPU) }).CPU
	}
	native := slices.IndexFunc(b.peers, func(p *wafPeer) bool { return p.Name == wafNative })
	for _, p := range b.peers {
		samples := p.samples[job.key]
		if len(samples) == 0 {
			continue
		}
		micros := slices.Sorted(slices.Values(p.micros[job.key]))
		result.Rows = append(result.Rows, WafRow{
			Peer:     p.Name,
			CPU:      each(samples, samples, func(a, _ Sample) float64 { return a.CPU }),
			Least:    least(p),
			Ratio:    least(p) / least(b.peers[native]),
			P99:      float64(micros[(len(micros)*99-1)/100]) / 1e3,
			Slowest:  float64(micros[len(micros)-1]) / 1e3,
			Requests: len(micros),
		})
	}

	return result
}

func (b *wafBed) stop() {
	for _, p := range b.peers {
		for _, server := range p.servers {
			server.stop()
		}
	}
	b.backend.stop()
}

// peakMemory is what a process has taken, in kilobytes.
func peakMemory(pid int) (WafMemory, error) {
	var m WafMemory
	for file, fields := range map[string]map[string]*int{"status": {"VmHWM:": &m.Peak}, "smaps_rollup": {"Pss:": &m.Share}} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) > 1 && fields[words[0]] != nil {
				*fields[words[0]], _ = strconv.Atoi(words[1])
			}
		}
	}

	return m, nil
}

// wafTargets are those of the project.
func wafTargets(w *Waf) []Target {
	ratio := func(key, peer, other string) (float64, bool) {
		a, b := w.row(key, peer), w.row(key, other)
		if a == nil || b == nil {
			return 0, false
		}
		return a.Least / b.Least, true
	}
	var list []Target
	for _, job := range []struct{ key, what string }{{"get", "GET"}, {"args", "GET with arguments"}} {
		v, ok := ratio(job.key, wafReused, wafNative)
		list = append(list, Target{What: job.what + ", CPU ÷ Coraza in a Go server", Have: v, Limit: 3, Measured: ok})
	}
	for _, job := range []struct{ key, what string }{{"get", "GET"}, {"args", "GET with arguments"}} {
		v, ok := ratio(job.key, wafFresh, wafReused)
		list = append(list, Target{What: job.what + ", an instance for each request, CPU ÷ reused", Have: v, Limit: 1.3, Measured: ok})
	}
	if p := w.peer(wafReused); p != nil {
		list = append(list, Target{What: "first answer of a start with a filled cache, s", Have: p.Warm.Median / 1e3, Limit: 3, Measured: true},
			Target{What: "`nginx -t` with a filled cache, s", Have: p.Test.Median / 1e3, Limit: 0.5, Measured: true})
	}

	return list
}

func (w *Waf) peer(name string) *WafPeer {
	for i := range w.Peers {
		if w.Peers[i].Name == name {
			return &w.Peers[i]
		}
	}

	return nil
}

func (w *Waf) row(key, peer string) *WafRow {
	for i := range w.Jobs {
		for j := range w.Jobs[i].Rows {
			if w.Jobs[i].Key == key && w.Jobs[i].Rows[j].Peer == peer {
				return &w.Jobs[i].Rows[j]
			}
		}
	}

	return nil
}
