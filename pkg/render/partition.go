package render

import (
	"slices"
)

// cost is what jobs take up of a pipeline: bytes of memory in GitLab, and
// their number.
type cost struct{ memory, jobs int }

func (c cost) plus(o cost) cost { return cost{c.memory + o.memory, c.jobs + o.jobs} }

func (c cost) minus(o cost) cost { return cost{c.memory - o.memory, c.jobs - o.jobs} }

func (c cost) within(room cost) bool { return c.memory <= room.memory && c.jobs <= room.jobs }

func costOf(jobs []namedJob) cost {
	c := cost{jobs: len(jobs)}
	for _, j := range jobs {
		c.memory += rubySize(text(j.name)) + rubySize(j.node) + rubyEntry
	}
	return c
}

// lookupCost is what a job takes up that looks up an image of another chunk.
func lookupCost(name string) cost {
	return costOf([]namedJob{{"published " + name + " and 499 more", kindManifest, mapping(
		"extends", ".published", "variables", mapping("PIPEGEN_NAMES", name),
		"artifacts", mapping("expire_in", keepArtifacts, "paths", list(".pipegen/"+indexOf(name))))}})
}

// levels gives 1 + the highest level of what each image needs.
func levels(needs [][]int) []int {
	level := make([]int, len(needs))
	for i := range needs {
		level[i] = 1
		for _, need := range needs[i] {
			level[i] = max(level[i], level[need]+1)
		}
	}
	return level
}

// partition divides images into chunks that each fit into a pipeline, none of
// which needs a later one.
//
// What hangs together stays together where it fits. What does not is cut below
// the fewest levels that leave parts which fit: with one image that all others
// stand on, that image is a chunk of its own.
type partition struct {
	needs  [][]int
	level  []int
	cost   []cost // of each image
	room   cost   // what a chunk holds
	lookup []cost // of needing each image from another chunk

	parent []int // of the trees that components are found by; -1: not in the set
}

// chunks gives the images of each chunk, ascending.
func (p *partition) chunks() [][]int {
	p.parent = make([]int, len(p.needs))
	all := make([]int, len(p.needs))
	for i := range all {
		all[i], p.parent[i] = i, -1
	}
	return p.divide(all)
}

// divide takes a set of images that holds what they need.
func (p *partition) divide(set []int) [][]int {
	var whole [][]int
	var lower []int
	var upper [][]int
	for _, part := range p.components(set) {
		if len(part) == 1 || p.costOf(part).within(p.room) {
			whole = append(whole, part)
			continue
		}
		below, above := p.cut(part)
		lower, upper = append(lower, below...), append(upper, above...)
	}
	var chunks [][]int
	if len(lower) > 0 {
		slices.Sort(lower)
		chunks = p.divide(lower)
		chunks = append(chunks, p.pack(upper)...)
	}
	return append(chunks, p.pack(whole)...)
}

// cut divides what hangs together into the images of its lower levels, as few
// levels as will do, and the parts that the others then fall into.
func (p *partition) cut(part []int) (below []int, above [][]int) {
	lowest, highest := p.level[part[0]], p.level[part[0]]
	for _, i := range part {
		lowest, highest = min(lowest, p.level[i]), max(highest, p.level[i])
	}
	// Above the last level but one nothing hangs together.
	from, to := lowest, highest-1
	for from < to {
		middle := (from + to) / 2
		_, above := p.at(part, middle)
		if slices.ContainsFunc(above, func(c []int) bool { return len(c) > 1 && !p.costOf(c).within(p.room) }) {
			from = middle + 1
		} else {
			to = middle
		}
	}
	return p.at(part, to)
}

func (p *partition) at(part []int, level int) (below []int, above [][]int) {
	var rest []int
	for _, i := range part {
		if p.level[i] <= level {
			below = append(below, i)
		} else {
			rest = append(rest, i)
		}
	}
	return below, p.components(rest)
}

// components gives what hangs together in a set, each ascending, in the order
// of their first images.
func (p *partition) components(set []int) [][]int {
	for _, i := range set {
		p.parent[i] = i
	}
	for _, i := range set {
		for _, need := range p.needs[i] {
			if p.parent[need] >= 0 {
				a, b := p.find(i), p.find(need)
				p.parent[max(a, b)] = min(a, b)
			}
		}
	}
	number := map[int]int{}
	var all [][]int
	for _, i := range set {
		root := p.find(i)
		at, ok := number[root]
		if !ok {
			at = len(all)
			number[root] = at
			all = append(all, nil)
		}
		all[at] = append(all[at], i)
	}
	for _, i := range set {
		p.parent[i] = -1
	}
	return all
}

func (p *partition) find(i int) int {
	for p.parent[i] != i {
		p.parent[i] = p.parent[p.parent[i]]
		i = p.parent[i]
	}
	return i
}

// costOf counts each image that is needed of another chunk once.
func (p *partition) costOf(part []int) cost {
	b := bin{images: map[int]bool{}, outside: map[int]bool{}}
	p.put(&b, part)
	return b.cost
}

// bin is a chunk in the making.
type bin struct {
	images, outside map[int]bool
	cost            cost
}

// put adds what hangs together, and what it needs of elsewhere.
func (p *partition) put(b *bin, part []int) {
	for _, i := range part {
		b.images[i] = true
		b.cost = b.cost.plus(p.cost[i])
	}
	for _, i := range part {
		for _, need := range p.needs[i] {
			if !b.images[need] && !b.outside[need] {
				b.outside[need] = true
				b.cost = b.cost.plus(p.lookup[need])
			}
		}
	}
}

// pack fills chunks with parts, in order.
func (p *partition) pack(parts [][]int) [][]int {
	var chunks [][]int
	var b bin
	for _, part := range parts {
		if extra := p.added(&b, part); len(chunks) == 0 || !b.cost.plus(extra).within(p.room) {
			chunks = append(chunks, nil)
			b = bin{images: map[int]bool{}, outside: map[int]bool{}}
		}
		p.put(&b, part)
		last := &chunks[len(chunks)-1]
		*last = append(*last, part...)
	}
	for _, c := range chunks {
		slices.Sort(c)
	}
	return chunks
}

// added is what a part would add to a chunk.
func (p *partition) added(b *bin, part []int) cost {
	alone := bin{images: map[int]bool{}, outside: map[int]bool{}}
	p.put(&alone, part)
	for need := range alone.outside {
		if b.outside[need] {
			alone.cost = alone.cost.minus(p.lookup[need])
		}
	}
	return alone.cost
}
