//go:build !linux || !arm64

package runner

func runs32Bit() bool { return false }
