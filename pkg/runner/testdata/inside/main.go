// Command inside is what the tests run in a sandbox: it is linked statically and
// says on its standard output what it sees.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what string, args []string) error {
	switch what {
	case "ls": // the names in each directory
		for _, dir := range args {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				fmt.Println(strings.TrimSuffix(dir, "/") + "/" + e.Name())
			}
		}
	case "modes":
		for i, f := range args {
			var st syscall.Stat_t
			if err := syscall.Stat(f, &st); err != nil {
				return err
			}
			fmt.Printf("%o%s", st.Mode&0o7777, map[bool]string{true: "\n", false: " "}[i == len(args)-1])
		}
	case "cat":
		for _, f := range args {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			os.Stdout.Write(b)
		}
	case "write":
		return os.WriteFile(args[0], []byte("written\n"), 0o644)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "ids":
		host, _ := os.Hostname()
		dir, _ := os.Getwd()
		_, err := os.Open("/dev/tty")
		fmt.Printf("uid=%d gid=%d pid=%d ppid=%d host=%s dir=%s tty=%v\n", os.Getuid(), os.Getgid(), os.Getpid(), os.Getppid(), host, dir, err == nil)
	case "own": // a file of another user, which that user alone can write; a closed directory
		id, _ := strconv.Atoi(args[1])
		if err := os.WriteFile(args[0], nil, 0o600); err != nil {
			return err
		}
		if err := os.Chown(args[0], id, id); err != nil {
			return err
		}
		if err := os.MkdirAll("/closed/deeper", 0o755); err != nil {
			return err
		}
		os.WriteFile("/closed/deeper/f", nil, 0)
		os.Chown("/closed/deeper", id, id)
		os.Chmod("/closed", 0)
		cmd := exec.Command("/proc/self/exe", "write", args[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return run("cat", args[:1])
	case "refused": // each must be refused
		for name, try := range map[string]func() error{
			"mount": func() error { return syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
			"remount": func() error {
				return syscall.Mount("", "/.kaniko/executor", "", syscall.MS_REMOUNT|syscall.MS_BIND, "")
			},
			"unmount":      func() error { return syscall.Unmount("/.kaniko/executor", 0) },
			"mknod":        func() error { return syscall.Mknod("/tmp/disk", syscall.S_IFBLK|0o666, 254<<8) },
			"host name":    func() error { return syscall.Sethostname([]byte("x")) },
			"pivot":        func() error { return syscall.PivotRoot("/tmp", "/tmp") },
			"its root":     func() error { _, err := os.ReadDir("/proc/1/root/"); return err },
			"the init":     func() error { _, err := os.Open("/proc/1/exe"); return err },
			"its files":    func() error { _, err := os.Open("/proc/1/fd/3"); return err },
			"the executor": func() error { return os.WriteFile("/.kaniko/executor", nil, 0o755) },
			"the kernel": func() error {
				return os.WriteFile("/proc/sys/kernel/core_pattern", []byte("core"), 0o644)
			},
			"sysrq":      func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0o644) },
			"low port":   func() error { l, err := net.Listen("tcp", "127.0.0.1:999"); close(l); return err },
			"raw socket": func() error { _, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, 1); return err },
		} {
			if try() == nil {
				fmt.Println("allowed:", name)
			}
		}
		return run("status", []string{"NoNewPrivs"})
	case "status":
		b, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(b)) {
			for _, a := range args {
				if strings.HasPrefix(line, a+":") {
					fmt.Print(line)
				}
			}
		}
	case "files": // open descriptors beyond the three
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/proc/") {
				fmt.Println(e.Name(), strings.Split(to, ":")[0])
			}
		}
	case "devices":
		for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"} {
			fi, err := os.Stat("/dev/" + name)
			if err != nil || fi.Mode()&os.ModeCharDevice == 0 {
				fmt.Println("no device:", name, err)
			}
		}
		null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		null.Write([]byte("x"))
		random := make([]byte, 16)
		f, err := os.Open("/dev/urandom")
		if err != nil {
			return err
		}
		_, err = f.Read(random)
		return err
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "die":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "orphan": // leaves a process behind and ends
		cmd := exec.Command("/proc/self/exe", "stay")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Start()
	case "tree": // three processes that do not end when asked; beats into the file that is given
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		depth, _ := strconv.Atoi(args[0])
		if depth > 1 {
			cmd := exec.Command("/proc/self/exe", "tree", strconv.Itoa(depth-1), args[1])
			cmd.Stdout = os.Stdout
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				return err
			}
		} else {
			fmt.Println("ready")
			os.WriteFile(args[1], []byte("ready"), 0o644)
		}
		return run("stay", nil)
	case "polite": // ends in order when asked
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		os.WriteFile(args[0], []byte("ready"), 0o644)
		<-c
		return os.WriteFile(args[0], []byte("ended in order"), 0o644)
	case "stay":
		time.Sleep(10 * time.Minute)
	}
	return nil
}

func close(l net.Listener) {
	if l != nil {
		l.Close()
	}
}
