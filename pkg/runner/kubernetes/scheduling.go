package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

var (
	availability = lazyregexp.New(`^0/(\d+) nodes are available: (.*)$`)
	perNodes     = lazyregexp.New(`^(\d+) (.*)$`)
	taint        = lazyregexp.New(`taint(?:\(s\))? \{(.*?)\}`)
)

const noNode = "the cluster has no node of linux/"

const notChosen = "didn't match Pod's node affinity/selector"

// unschedulable says why a scheduler has no node for a pod, from its message:
// "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had …. preemption: …".
func (v view) unschedulable(p *corev1.Pod, message string) (reason, hint string) {
	m := availability.FindStringSubmatch(message)
	if m == nil {
		if strings.Contains(message, "no nodes available") {
			return "the cluster has no nodes", "add some"
		}
		return "it cannot be scheduled: " + message, ""
	}
	total, _ := strconv.Atoi(m[1])
	text, _, _ := strings.Cut(m[2], ". ")
	var parts []string
	what := map[string]bool{}
	for part := range strings.SplitSeq(strings.TrimSuffix(text, "."), ", ") {
		c := perNodes.FindStringSubmatch(part)
		if c == nil {
			parts = append(parts, part)
			continue
		}
		n, _ := strconv.Atoi(c[1])
		if strings.Contains(c[2], notChosen) && n == total {
			return v.noSuchNode(p)
		}
		words, kind := nodeWords(p, n, strings.TrimPrefix(c[2], "node(s) "))
		if total > 1 {
			words = fmt.Sprintf("%d %s", n, words)
		}
		parts = append(parts, words)
		what[kind] = true
	}
	reason = fmt.Sprintf("no node can take it: of %d, %s", total, strings.Join(parts, ", "))
	if total == 1 {
		reason = "the only node cannot take it: it " + strings.Join(parts, ", ")
	}
	switch {
	case what["room"]:
		reason += asked(p)
		hint = "it starts when there is room; ask for less (resources), or add nodes"
	case what["taint"]:
		hint = "tolerate the taint (server.kubernetes.tolerations), or add nodes"
	case what["cordon"]:
		hint = "kubectl uncordon NODE, or add nodes"
	}
	return reason, hint
}

// nodeWords says what is wrong with some nodes, and of which kind that is.
func nodeWords(p *corev1.Pod, n int, text string) (words, kind string) {
	has, are := "has", "is"
	if n > 1 {
		has, are = "have", "are"
	}
	if name, ok := strings.CutPrefix(text, "Insufficient "); ok {
		return has + " too little " + name + " left", "room"
	}
	switch {
	case text == "Too many pods":
		return has + " as many pods as it may", "room"
	case strings.Contains(text, notChosen):
		return are + " not " + chosen(p), "choice"
	case strings.Contains(text, "unschedulable"):
		return are + " cordoned", "cordon"
	case taint.MatchString(text):
		t := strings.TrimSuffix(strings.TrimSpace(taint.FindStringSubmatch(text)[1]), ":")
		return has + " the taint " + strings.ReplaceAll(t, ": ", "=") + ", which is not tolerated", "taint"
	case strings.Contains(text, "untolerated taint"): // which, only the node says
		return has + " a taint that is not tolerated", "taint"
	}
	return text, ""
}

// noSuchNode says that no node is what a pod asks for: mostly for want of its
// architecture.
func (v view) noSuchNode(p *corev1.Pod) (reason, hint string) {
	arch := p.Spec.NodeSelector[corev1.LabelArchStable]
	for key := range p.Spec.NodeSelector {
		if key != corev1.LabelArchStable && key != corev1.LabelOSStable {
			return "no node of the cluster is " + chosen(p), "see server.kubernetes.node_selector and affinity, and kubectl get nodes --show-labels; or add such a node"
		}
	}
	if p.Spec.Affinity != nil && p.Spec.Affinity.NodeAffinity != nil {
		return "no node of the cluster is " + chosen(p), "see server.kubernetes.affinity, and kubectl get nodes --show-labels; or add such a node"
	}
	return noNode + arch, "add one, or leave this platform out; kubectl get nodes -L kubernetes.io/arch"
}

// chosen says which nodes a pod asks for.
func chosen(p *corev1.Pod) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(p.Spec.NodeSelector)) {
		switch key {
		case corev1.LabelOSStable:
		case corev1.LabelArchStable:
			all = append(all, "of linux/"+p.Spec.NodeSelector[key])
		default:
			all = append(all, key+"="+p.Spec.NodeSelector[key])
		}
	}
	if p.Spec.Affinity != nil && p.Spec.Affinity.NodeAffinity != nil {
		all = append(all, "of its affinity")
	}
	return strings.Join(all, " and ")
}

// asked says how much a pod asks for.
func asked(p *corev1.Pod) string {
	for _, c := range p.Spec.Containers {
		if c.Name != agentContainer || len(c.Resources.Requests) == 0 {
			continue
		}
		var all []string
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Requests)) {
			q := c.Resources.Requests[name]
			all = append(all, q.String()+" "+string(name))
		}
		return "; it asks for " + strings.Join(all, ", ")
	}
	return ""
}
