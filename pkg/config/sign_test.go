package config

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestSign(t *testing.T) {
	for _, tt := range []struct{ sign, want string }{
		{"{key: cosign.key}", ""},
		{"{key: env://COSIGN_KEY, password_env: PASSWORD, rekor: 'https://rekor.example.org'}", ""},
		{"{key: 'awskms:///alias/images'}", ""},
		{"{key: 'awskms://localhost:4566/1234'}", ""},
		{"{keyless: true, fulcio: 'http://127.0.0.1:1', timestamp: 'https://tsa.example.org/api/v1/timestamp'}", ""},
		{"{}", "sign has neither key nor keyless"},
		{"{key: a, keyless: true}", "key and keyless exclude each other"},
		{"{key: 'awskms://alias'}", "names no key"},
		{"{key: 'awskms:///'}", "names no key"},
		{"{key: 'env://no name'}", "key names no key"},
		{"{key: '-----BEGIN PRIVATE KEY----- secret'}", "key names no key"},
		{"{key: 'gcpkms://x'}", `keys of "gcpkms" are not known`},
		{"{key: a, password_env: 'my secret'}", "password_env is no name of an environment variable"},
		{"{keyless: true, fulcio: 'http://fulcio.example.org'}", "fulcio is not the address of a service"},
		{"{keyless: true, rekor: 'https://user:secret@rekor.example.org'}", "rekor is not the address of a service"},
		{"{keyless: true, timestamp: tsa}", "timestamp is not the address of a service"},
		{"{key: 'awskms:///alias/a', assume_role: ['arn:aws:iam::123456789012:role/signer'], external_id: pipegen, region: eu-west-1}", ""},
		{"{key: 'awskms:///alias/a', assume_role: [signer]}", "no ARN of a role"},
		{"{key: 'awskms:///alias/a', external_id: pipegen}", "external_id without assume_role"},
		{"{key: 'awskms:///alias/a', region: Ireland}", "no region"},
		{"{key: cosign.key, region: eu-west-1}", "region is of a key in AWS KMS"},
		{"{keyless: true, assume_role: ['arn:aws:iam::123456789012:role/signer']}", "assume_role is of a key in AWS KMS"},
		{"{kee: a}", "unknown key"},
	} {
		_, err := LoadPipegen(fstest.MapFS{PipegenFile: {Data: []byte("publish:\n  sign: " + tt.sign + "\n")}})
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.sign, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: %v shows a secret", tt.sign, err)
		}
	}
}

func TestSignDefaults(t *testing.T) {
	for _, tt := range []struct {
		sign             Sign
		rekor, variables string
	}{
		{Sign{Keyless: true}, "https://rekor.sigstore.dev", ""},
		{Sign{Keyless: true, Timestamp: "https://tsa.example.org"}, "", ""},
		{Sign{Keyless: true, Rekor: "https://rekor.example.org/"}, "https://rekor.example.org", ""},
		{Sign{Key: "cosign.key"}, "", "COSIGN_PASSWORD"},
		{Sign{Key: "env://KEY", PasswordEnv: "P"}, "", "KEY P"},
		{Sign{Key: "awskms:///alias/a"}, "", ""},
	} {
		if got := tt.sign.RekorURL(); got != tt.rekor {
			t.Errorf("%+v: Rekor %q", tt.sign, got)
		}
		if got := strings.Join(tt.sign.Credentials(), " "); got != tt.variables {
			t.Errorf("%+v: variables %q", tt.sign, got)
		}
	}
}
