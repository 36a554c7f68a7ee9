package diff

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// commitGraph is the file in which git keeps the parents and times of commits,
// or a chain of such files; see gitformat-commit-graph(5). It makes walking
// history several times as fast as reading commits.
type commitGraph struct {
	layers []graphLayer // the oldest first
	files  []mapped
}

// graphLayer is one file of the chain.
type graphLayer struct {
	ids    packIndex // fan-out table and ids alone
	data   []byte    // of commits, 36 bytes each
	more   []byte    // parents beyond the second, 4 bytes each
	before int       // commits in the layers below, which parents may be
	bases  int
}

// links is what a walk over history needs of a commit.
type links struct {
	parents []oid
	time    int64 // of the committer, seconds since 1970
}

const (
	graphNoParent = 0x70000000
	graphMore     = 1 << 31
	graphData     = idSize + 16
)

// openGraph opens the first graph that there is in the object directories. It
// only saves time: one that cannot be used is as good as none.
func openGraph(o *objects) *commitGraph {
	dirs, err := o.directories()
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		info := filepath.Join(dir, "info")
		names := []string{filepath.Join(info, "commit-graph")}
		if text, err := os.ReadFile(filepath.Join(info, "commit-graphs", "commit-graph-chain")); err == nil {
			names = nil
			for hash := range strings.FieldsSeq(string(text)) {
				if !isHash(hash) {
					return nil
				}
				names = append(names, filepath.Join(info, "commit-graphs", "graph-"+hash+".graph"))
			}
		}
		if g := openLayers(names); g != nil {
			return g
		}
	}
	return nil
}

func openLayers(names []string) *commitGraph {
	g := &commitGraph{}
	for _, name := range names {
		file, err := openMapped(name)
		if err == nil {
			g.files = append(g.files, file)
			err = guard(func() error { return g.add(file.data) })
		}
		if err != nil {
			_ = g.close() // it is not used
			return nil
		}
	}
	return g
}

func (g *commitGraph) close() error {
	if g == nil {
		return nil
	}
	var errs []error
	for _, f := range g.files {
		errs = append(errs, f.close())
	}
	g.layers, g.files = nil, nil
	return errors.Join(errs...)
}

// add puts a file on top of the layers.
func (g *commitGraph) add(data []byte) error {
	layer, err := parseGraph(data)
	if err == nil && layer.bases != len(g.layers) {
		err = damaged("a commit-graph of %d layers, found on %d", layer.bases+1, len(g.layers))
	}
	if err != nil {
		return err
	}
	if len(g.layers) > 0 {
		last := g.layers[len(g.layers)-1]
		layer.before = last.before + last.ids.count
	}
	g.layers = append(g.layers, layer)
	return nil
}

// parseGraph reads one file: a header, a table of chunks, the chunks.
func parseGraph(data []byte) (graphLayer, error) {
	const head, row = 8, 12
	var l graphLayer
	if len(data) < head || !bytes.HasPrefix(data, []byte("CGPH\x01\x01")) {
		return l, damaged("no commit-graph of version 1 with SHA-1")
	}
	chunks := int(data[6])
	l.bases = int(data[7])
	if len(data) < head+(chunks+1)*row+idSize {
		return l, damaged("the commit-graph ends early")
	}
	end := uint64(len(data) - idSize) //nolint:gosec // seen to be more than 0
	found := map[string][]byte{}
	for i := range chunks {
		at := data[head+i*row:]
		from, to := binary.BigEndian.Uint64(at[4:]), binary.BigEndian.Uint64(at[4+row:])
		if from > to || to > end {
			return l, damaged("the commit-graph has a part outside of it")
		}
		found[string(at[:4])] = data[from:to]
	}
	fanout := found["OIDF"]
	if len(fanout) != fanoutSize {
		return l, damaged("the commit-graph has no fan-out table")
	}
	for i := 4; i < fanoutSize; i += 4 {
		if bytes.Compare(fanout[i-4:i], fanout[i:i+4]) > 0 {
			return l, damaged("the fan-out table of the commit-graph is not in order")
		}
	}
	n := uint64(binary.BigEndian.Uint32(fanout[fanoutSize-4:]))
	if uint64(len(found["OIDL"])) != n*idSize || uint64(len(found["CDAT"])) != n*graphData {
		return l, damaged("the commit-graph does not hold the %d commits that it names", n)
	}
	l.ids = packIndex{fanout: fanout, count: int(n), ids: found["OIDL"], stride: idSize} //nolint:gosec // less than the length of the file
	l.data, l.more = found["CDAT"], found["EDGE"]
	return l, nil
}

// links gives what the graph has of a commit, and false if it does not have it.
func (g *commitGraph) links(id oid) (found links, ok bool, err error) {
	if g == nil {
		return links{}, false, nil
	}
	err = guard(func() (err error) {
		for _, l := range slices.Backward(g.layers) {
			if i := l.ids.find(id); i >= 0 {
				ok = true
				found, err = g.at(&l, i)
				return err
			}
		}
		return nil
	})
	return found, ok && err == nil, err
}

func (g *commitGraph) at(l *graphLayer, i int) (links, error) {
	data := l.data[i*graphData:][idSize:graphData]
	first, second := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
	// The upper bits are the number of the generation.
	found := links{time: int64(binary.BigEndian.Uint64(data[8:]) & (1<<34 - 1))}
	positions := []uint32{first, second}
	if second != graphNoParent && second&graphMore != 0 {
		positions = positions[:1]
		for at := uint64(second&^uint32(graphMore)) * 4; ; at += 4 {
			if at+4 > uint64(len(l.more)) {
				return links{}, damaged("the commit-graph ends within a list of parents")
			}
			p := binary.BigEndian.Uint32(l.more[at:])
			positions = append(positions, p&^uint32(graphMore))
			if p&graphMore != 0 {
				break
			}
		}
	}
	for _, p := range positions {
		if p == graphNoParent {
			break
		}
		parent, ok := g.id(p)
		if !ok {
			return links{}, damaged("the commit-graph names a parent that it does not hold")
		}
		found.parents = append(found.parents, parent)
	}
	return found, nil
}

// id gives the commit at a position, counted through all layers.
func (g *commitGraph) id(position uint32) (oid, bool) {
	for _, l := range slices.Backward(g.layers) {
		if i := int64(position) - int64(l.before); i >= 0 {
			if i >= int64(l.ids.count) {
				return oid{}, false
			}
			return oid(l.ids.id(int(i))), true
		}
	}
	return oid{}, false
}
