package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// change is an event of a watch.
type change struct {
	rv     int
	kind   string // of watches: ADDED, MODIFIED, DELETED
	object metav1.Object
}

// apiServer speaks enough of Kubernetes' protocol for a launcher: lists and
// watches with resource versions, 409, 404 and 410. Nothing happens in it but
// what a test does, and the end of what belongs to a Job that is deleted.
type apiServer struct {
	t    *testing.T
	http *httptest.Server

	mu        sync.Mutex
	rv        int
	objects   map[string]map[string]metav1.Object // by resource and name
	history   map[string][]change
	compacted int // watches from before are too old
	changed   chan struct{}
	requests  map[string]int // such as "create jobs"
	// Whether all connections break.
	away bool
	// Answers in the place of the server; nil: it answers itself.
	instead func(verb, resource string) *metav1.Status
	// Pods of deleted Jobs stay until they are removed.
	stuck bool
	// What is not allowed, such as "delete jobs".
	denied map[string]bool
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{
		t: t, rv: 1, objects: map[string]map[string]metav1.Object{}, history: map[string][]change{}, changed: make(chan struct{}),
		requests: map[string]int{}, denied: map[string]bool{},
	}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

func (s *apiServer) client() *Client {
	c, err := NewClient(&rest.Config{Host: s.http.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *apiServer) do(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// put makes or changes an object.
func (s *apiServer) put(resource string, o metav1.Object) { s.do(func() { s.set(resource, o) }) }

func (s *apiServer) set(resource string, o metav1.Object) {
	kind := "MODIFIED"
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]metav1.Object{}
	}
	if s.objects[resource][o.GetName()] == nil {
		kind = "ADDED"
	}
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", s.rv)))
	}
	o.SetNamespace("builds")
	s.objects[resource][o.GetName()] = o
	s.note(resource, kind, o)
}

func (s *apiServer) note(resource, kind string, o metav1.Object) {
	s.rv++
	o.SetResourceVersion(strconv.Itoa(s.rv))
	s.history[resource] = append(s.history[resource], change{s.rv, kind, clone(o)})
	close(s.changed)
	s.changed = make(chan struct{})
}

func clone(o metav1.Object) metav1.Object {
	switch o := o.(type) {
	case *batchv1.Job:
		return o.DeepCopy()
	case *corev1.Pod:
		return o.DeepCopy()
	case *corev1.Secret:
		return o.DeepCopy()
	case *corev1.Event:
		return o.DeepCopy()
	case *corev1.Node:
		return o.DeepCopy()
	}
	panic(fmt.Sprintf("%T", o))
}

// remove ends an object, and what belongs to it.
func (s *apiServer) remove(resource, name string) { s.do(func() { s.drop(resource, name) }) }

func (s *apiServer) drop(resource, name string) {
	o := s.objects[resource][name]
	if o == nil {
		return
	}
	delete(s.objects[resource], name)
	s.note(resource, "DELETED", o)
	if resource != "jobs" {
		return
	}
	for _, below := range []string{"pods", "secrets"} {
		for _, other := range slices.Collect(maps.Values(s.objects[below])) {
			if slices.ContainsFunc(other.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) {
				s.drop(below, other.GetName())
			}
		}
	}
}

// names gives what there is of a resource.
func (s *apiServer) names(resource string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(s.objects[resource])), " ")
}

// count gives how many requests there were that are no watches and lists.
func (s *apiServer) count() (n int, all string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, times := range s.requests {
		if !strings.HasPrefix(what, "watch ") && !strings.HasPrefix(what, "list ") {
			n += times
		}
	}
	return n, fmt.Sprint(s.requests)
}

// outage has the server be away, or back.
func (s *apiServer) outage(away bool) {
	s.do(func() { s.away = away })
	if away {
		s.http.CloseClientConnections()
	}
}

// compact has every watch end that is open, and be too old to go on.
func (s *apiServer) compact() {
	s.do(func() { s.compacted = s.rv + 1; s.rv += 2 })
	s.http.CloseClientConnections()
}

var kinds = map[string][2]string{
	"jobs": {"batch/v1", "Job"}, "pods": {"v1", "Pod"}, "secrets": {"v1", "Secret"}, "events": {"v1", "Event"}, "nodes": {"v1", "Node"},
}

func encode(resource string, o metav1.Object) map[string]any {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		panic(err)
	}
	all["apiVersion"], all["kind"] = kinds[resource][0], kinds[resource][1]
	return all
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource, name := parts[len(parts)-1], ""
	if i := slices.Index(parts, "namespaces"); i > 0 {
		resource = parts[i+2]
		name = strings.Join(parts[i+3:], "/")
		if parts[i+1] != "builds" {
			s.t.Error("a request for another namespace:", r.URL)
		}
	}
	verb := map[string]string{"GET": "get", "POST": "create", "DELETE": "delete"}[r.Method]
	if r.Method == "GET" && name == "" {
		verb = "list"
		if r.URL.Query().Get("watch") != "" {
			verb = "watch"
		}
	}
	s.mu.Lock()
	s.requests[verb+" "+resource]++
	away, instead, denied := s.away, s.instead, s.denied[verb+" "+resource]
	s.mu.Unlock()
	if away {
		panic(http.ErrAbortHandler)
	}
	if denied {
		refuse(w, 403, metav1.StatusReasonForbidden, fmt.Sprintf(`%s is forbidden: User "system:serviceaccount:builds:pipegen" cannot %s resource %q in API group "" in the namespace "builds"`, resource, verb, resource))
		return
	}
	if instead != nil {
		if status := instead(verb, resource); status != nil {
			reply(w, int(status.Code), status)
			return
		}
	}
	switch {
	case path.Base(r.URL.Path) == "version":
		reply(w, 200, map[string]string{"gitVersion": "v1.34.4", "major": "1", "minor": "34"})
	case resource == "selfsubjectaccessreviews":
		var ask authv1.SelfSubjectAccessReview
		s.decode(r, &ask)
		a := ask.Spec.ResourceAttributes
		s.do(func() { ask.Status.Allowed = !s.denied[a.Verb+" "+a.Resource] })
		ask.APIVersion, ask.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
		reply(w, 201, ask)
	case verb == "list":
		s.list(w, r, resource)
	case verb == "watch":
		s.watch(w, r, resource)
	case verb == "create":
		s.create(w, r, resource)
	default:
		s.one(w, verb, resource, name)
	}
}

func (s *apiServer) decode(r *http.Request, out any) {
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		s.t.Error(err)
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func failure503() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: 503, Reason: metav1.StatusReasonServiceUnavailable, Message: "etcd is away"}
}

func refuse(w http.ResponseWriter, code int32, reason metav1.StatusReason, message string) {
	reply(w, int(code), statusOf(code, reason, message))
}

func statusOf(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: code, Reason: reason, Message: message}
}

// chosen says whether a request wants an object.
func wanted(r *http.Request, o metav1.Object) bool {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		panic(err)
	}
	e, isEvent := o.(*corev1.Event)
	return selector.Matches(labels.Set(o.GetLabels())) && (!isEvent || r.URL.Query().Get("fieldSelector") != "type=Warning" || e.Type == "Warning")
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.objects[resource])) {
		if o := s.objects[resource][name]; wanted(r, o) {
			items = append(items, encode(resource, o))
		}
	}
	reply(w, 200, map[string]any{
		"apiVersion": kinds[resource][0], "kind": kinds[resource][1] + "List", "metadata": map[string]string{"resourceVersion": strconv.Itoa(s.rv)}, "items": items,
	})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	send := func(kind string, o any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": o})
		_ = http.NewResponseController(w).Flush()
	}
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		if s.away {
			s.mu.Unlock()
			return
		}
		changed, old := s.changed, from < s.compacted
		var all []change
		for _, c := range s.history[resource] {
			if c.rv > from && wanted(r, c.object) {
				all = append(all, c)
			}
		}
		s.mu.Unlock()
		if old {
			send("ERROR", statusOf(410, metav1.StatusReasonExpired, "too old resource version"))
			return
		}
		for _, c := range all {
			send(c.kind, encode(resource, c.object))
			from = c.rv
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *apiServer) create(w http.ResponseWriter, r *http.Request, resource string) {
	var o metav1.Object
	switch resource {
	case "jobs":
		o = new(batchv1.Job)
	case "secrets":
		o = new(corev1.Secret)
	default:
		s.t.Error("made:", resource)
		return
	}
	s.decode(r, o)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[resource][o.GetName()] != nil {
		refuse(w, 409, metav1.StatusReasonAlreadyExists, resource+" "+o.GetName()+" already exists")
		return
	}
	if r.URL.Query().Get("dryRun") != "All" {
		s.set(resource, o)
	}
	reply(w, 201, encode(resource, o))
}

func (s *apiServer) one(w http.ResponseWriter, verb, resource, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[resource][name]
	if o == nil {
		refuse(w, 404, metav1.StatusReasonNotFound, fmt.Sprintf("%s %q not found", resource, name))
		return
	}
	reply(w, 200, encode(resource, o))
	if verb != "delete" {
		return
	}
	if s.stuck {
		now := metav1.Now()
		o.SetDeletionTimestamp(&now)
		s.note(resource, "MODIFIED", o)
		return
	}
	s.drop(resource, name)
}

// pod makes the pod of a Job, or changes it.
func (s *apiServer) pod(task string, changes ...func(*corev1.Pod)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := aPod(changes...)
	p.Name, p.UID, p.Labels = task+"-abcde", types.UID("pod-"+task), map[string]string{taskLabel: task, managedBy: itself}
	if j := s.objects["jobs"][task]; j != nil {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: task, UID: j.GetUID()}}
	}
	s.set("pods", p)
}

// warn makes a warning of a Job or a pod.
func (s *apiServer) warn(kind, name, reason, message string) {
	s.do(func() {
		s.set("events", &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%d", name, s.rv)}, Type: "Warning", Reason: reason, Message: message,
			InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name}, LastTimestamp: metav1.Time{Time: time.Now()},
		})
	})
}
