package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
)

// Platform is an operating system and a processor architecture, as in the
// OCI image specification ("os/arch[/variant]"), normalised as containerd
// does: linux/arm64/v8 and linux/aarch64 are linux/arm64, linux/arm is
// linux/arm/v7.
type Platform struct {
	OS, Arch, Variant string
}

// known lists what an image can be built for: Go's own ports, which is what
// the image specification refers to for its values.
var known = map[string][]string{
	"linux":   {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x"},
	"windows": {"386", "amd64", "arm64"},
	"freebsd": {"386", "amd64", "arm", "arm64", "riscv64"},
	"darwin":  {"amd64", "arm64"},
	"wasip1":  {"wasm"},
}

// variants lists what may follow an architecture; others have no variants.
// For arm64 these are major versions, which a minor one may follow: v8.2.
var variants = map[string][]string{
	"amd64":   {"v2", "v3", "v4"},
	"arm":     {"v5", "v6", "v7", "v8"},
	"arm64":   {"v8", "v9"},
	"ppc64le": {"power8", "power9", "power10"},
	"riscv64": {"rva20u64", "rva22u64", "rva23u64"},
}

// ParsePlatform reads "os/arch[/variant]". The operating system must be
// written: a bare architecture would mean another platform on another
// machine. The error says what was not understood.
func ParsePlatform(s string) (Platform, error) {
	system, arch, found := strings.Cut(s, "/")
	if arch != "arm" && slices.Contains(known[system], arch) {
		return Platform{OS: system, Arch: arch}, nil // normal already
	}
	if !found {
		return Platform{}, fmt.Errorf("unknown platform %q: want os/arch[/variant], for example linux/arm64", s)
	}
	p, err := platforms.Parse(s)
	if err != nil || p.OSVersion != "" || len(p.OSFeatures) > 0 {
		return Platform{}, fmt.Errorf("unknown platform %q: want os/arch[/variant], for example linux/arm64", s)
	}
	p = platforms.Normalize(p)
	archs, ok := known[p.OS]
	if !ok {
		return Platform{}, fmt.Errorf("unknown platform %q: no images are made for operating system %q", s, p.OS)
	}
	if !slices.Contains(archs, p.Architecture) {
		return Platform{}, fmt.Errorf("unknown platform %q: %s does not run on %q", s, p.OS, p.Architecture)
	}
	if p.Variant != "" && !slices.Contains(variants[p.Architecture], version(p)) {
		return Platform{}, fmt.Errorf("unknown platform %q: %s has no variant %q", s, p.Architecture, p.Variant)
	}
	return Platform{OS: p.OS, Arch: p.Architecture, Variant: p.Variant}, nil
}

// version is the variant without the minor version that arm64 may have.
func version(p platforms.Platform) string {
	major, minor, _ := strings.Cut(p.Variant, ".")
	if p.Architecture == "arm64" && len(minor) == 1 && minor >= "0" && minor <= "9" {
		return major
	}
	return p.Variant
}

// String gives "os/arch[/variant]".
func (p Platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Suffix is the platform's part of a build's id and of its tag:
// ARCH[-VARIANT], and for other systems than Linux OS-ARCH[-VARIANT].
func (p Platform) Suffix() string {
	s := p.Arch
	if p.OS != "linux" {
		s = p.OS + "-" + s
	}
	if p.Variant != "" {
		s += "-" + p.Variant
	}
	return s
}
