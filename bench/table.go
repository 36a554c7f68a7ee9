package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// table holds what was measured, side by side for each size of a repository.
type table struct {
	title string
	of    string // what the sizes count
	sizes []int

	names   []string
	results map[string][]result // by name, as sizes
}

// measure measures the processes for the next size.
func (t *table) measure(ctx context.Context, processes []*process) error {
	results, err := measure(ctx, processes)
	if err != nil {
		return err
	}
	if t.results == nil {
		t.results = map[string][]result{}
	}
	for _, p := range processes {
		if t.results[p.name] == nil {
			t.names = append(t.names, p.name)
		}
		t.results[p.name] = append(t.results[p.name], results[p])
	}
	return nil
}

const nameWidth = 44

// print prints the medians: wall time and CPU in milliseconds, memory in MB.
func (t *table) print() {
	fmt.Printf("\n%s; medians of whole processes: wall ms, CPU ms, MB\n\n%-*s", t.title, nameWidth, "")
	for _, n := range t.sizes {
		fmt.Printf("%26s", thousands(n)+" "+t.of)
	}
	fmt.Println()
	for _, name := range t.names {
		fmt.Printf("%-*s", nameWidth, name)
		for _, r := range t.results[name] {
			if r.err != nil {
				fmt.Printf("%26s", "failed")
				continue
			}
			fmt.Printf("%10.1f%10.1f%6d", milliseconds(r.wall), milliseconds(r.cpu), r.memory>>20)
		}
		fmt.Println()
	}
	for _, name := range t.names {
		for i, r := range t.results[name] {
			if r.err != nil {
				fmt.Fprintf(os.Stderr, "%s, %d %s: %v\n", name, t.sizes[i], t.of, r.err)
			}
		}
	}
	fmt.Println()
}

// column is one figure for each size; false: it could not be measured.
type column []figure

type figure struct {
	value float64
	ok    bool
}

// goal prints a figure for every size, and whether the largest is within the
// limit.
func (t *table) goal(name, unit string, limit float64, values column) {
	fmt.Printf("%-*s", nameWidth, name)
	verdict := "MISSED"
	for _, v := range values {
		text := "-"
		if v.ok {
			text = fmt.Sprintf("%.2f", v.value)
		}
		fmt.Printf("%10s", text)
		if verdict = "MISSED"; v.ok && v.value <= limit {
			verdict = "MET"
		}
	}
	fmt.Printf("  %-14s goal %4s  %s\n", unit, strconv.FormatFloat(limit, 'f', -1, 64), verdict)
}

func (t *table) each(name string, of func(i int, r result) float64) column {
	var c column
	for i, r := range t.results[name] {
		c = append(c, figure{of(i, r), r.err == nil})
	}
	return c
}

func (t *table) wall(name string) column {
	return t.each(name, func(_ int, r result) float64 { return milliseconds(r.wall) })
}

func (t *table) seconds(name string) column {
	return t.each(name, func(_ int, r result) float64 { return r.wall.Seconds() })
}

func (t *table) cpu(name string) column {
	return t.each(name, func(_ int, r result) float64 { return r.cpu.Seconds() })
}

func (t *table) memory(name string) column {
	return t.each(name, func(_ int, r result) float64 { return float64(r.memory) / (1 << 20) })
}

// growth is the CPU at a size against that at the size before.
func (t *table) growth(name string) column {
	return t.each(name, func(i int, r result) float64 {
		if i == 0 {
			return 1
		}
		return float64(r.cpu) / float64(t.results[name][i-1].cpu)
	})
}

// difference is what a command takes more of a figure than another.
func (t *table) difference(name, than string, of func(result) float64) column {
	return t.each(name, func(i int, r result) float64 { return of(r) - of(t.results[than][i]) })
}

// ratio is the wall time of a command less the start of pipegen against that
// of git's.
func (t *table) ratio(name, git string) column {
	return t.each(name, func(i int, r result) float64 {
		return float64(r.wall-t.results["pipegen --version"][i].wall) / float64(t.results[git][i].wall)
	})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// thousands writes 10000 as 10,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
