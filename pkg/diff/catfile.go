package diff

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// catFile asks one git cat-file --batch process for objects, one at a time.
// The process is started by the first question and ends when its input is
// closed, by close or by the end of this process.
type catFile struct {
	start   func() *exec.Cmd
	explain func(err error, complaint string) error

	turn    sync.Mutex
	running *asked
}

// asked is a running process and the two ends that are held of it.
type asked struct {
	cmd       *exec.Cmd
	in        *os.File
	pipe      *os.File
	out       *bufio.Reader
	complaint *excerpt
	ended     chan struct{}
	err       error // of the process, once ended
}

// get reads the object of this name: an id or a revision. It gives the id and
// the content; a name that stands for nothing is ErrMissing.
func (c *catFile) get(ctx context.Context, name string) (id string, data []byte, err error) {
	err = c.talk(ctx, func(p *asked) error {
		id, data, err = p.ask(name)
		return err
	})
	return id, data, err
}

// getAll reads many objects: all questions are on their way while the answers
// come. What is missing is nil.
func (c *catFile) getAll(ctx context.Context, names []string) ([][]byte, error) {
	all := make([][]byte, len(names))
	if len(names) == 0 {
		return all, nil
	}
	err := c.talk(ctx, func(p *asked) error {
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(p.in, strings.Join(names, "\n")+"\n")
			written <- err
		}()
		for i, name := range names {
			_, data, err := p.answer(name)
			if err != nil && !errors.Is(err, ErrMissing) {
				_ = p.in.Close() // ends the writing
				return errors.Join(err, <-written)
			}
			all[i] = data
		}
		return <-written
	})
	return all, err
}

// talk gives f the running process. An error of f that is no answer of git's
// ends it.
func (c *catFile) talk(ctx context.Context, f func(*asked) error) (err error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.running == nil {
		if c.running, err = c.launch(); err != nil {
			return err
		}
	}
	p := c.running
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Signal(os.Interrupt) })
	defer stop()
	if err = f(p); err == nil || isAnswer(err) {
		return err
	}
	// The stream is of no further use: the next question starts anew.
	c.running = nil
	p.stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p.err != nil {
		err = p.err
	}
	return fmt.Errorf("git cat-file: %w", c.explain(err, p.complaint.String()))
}

func (c *catFile) close() error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.running == nil {
		return nil
	}
	p := c.running
	c.running = nil
	p.stop()
	return nil
}

func (c *catFile) launch() (*asked, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("running git: %w", err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		_, _ = theirIn.Close(), in.Close()
		return nil, fmt.Errorf("running git: %w", err)
	}
	p := &asked{cmd: c.start(), in: in, pipe: out, out: bufio.NewReaderSize(out, 64<<10), complaint: &excerpt{}, ended: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirIn, theirOut, p.complaint
	err = p.cmd.Start()
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		_, _ = in.Close(), out.Close()
		return nil, fmt.Errorf("running git: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop closes the input, which ends the process, and waits for that.
func (p *asked) stop() {
	_, _ = p.in.Close(), p.pipe.Close()
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// answer is an error that git gave as a proper answer.
type answer struct{ error }

func (a answer) Unwrap() error { return a.error }

func isAnswer(err error) bool {
	_, ok := err.(answer) //nolint:errorlint // as ask made it, not wrapped
	return ok
}

func (p *asked) ask(name string) (id string, data []byte, err error) {
	if _, err := io.WriteString(p.in, name+"\n"); err != nil {
		return "", nil, err
	}
	return p.answer(name)
}

// answer reads what git-cat-file(1) says of a name, see BATCH OUTPUT there.
func (p *asked) answer(name string) (id string, data []byte, err error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", nil, err
	}
	line = strings.TrimSuffix(line, "\n")
	if line == name+" missing" {
		return "", nil, answer{fmt.Errorf("%s is %w", quote.Text(name), ErrMissing)}
	}
	if line == name+" ambiguous" {
		return "", nil, answer{failure.WithHint(failure.Input("%s is ambiguous", quote.Text(name)), "write more digits of the hash")}
	}
	fields := strings.Fields(line)
	if len(fields) != 3 || !isHash(fields[0]) {
		return "", nil, fmt.Errorf("unexpected answer %.80q", line)
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return "", nil, fmt.Errorf("unexpected answer %.80q", line)
	}
	data = make([]byte, size+1)
	if _, err := io.ReadFull(p.out, data); err != nil {
		return "", nil, err
	}
	return fields[0], data[:size], nil
}
