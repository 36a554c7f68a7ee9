package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// promises are what the build service holds to, each a mistake that such
// systems make, with the tests that hold it: DIR TEST, or DIR TEST/CASE, where
// the case is named in the test's file or by a file of its testdata.
var promises = []struct {
	promise string
	tests   []string
}{
	{"nothing is answered without a token; a token opens no more than it is for", []string{
		"pkg/controller/web TestEveryRouteWantsAToken", "pkg/controller/web TestRunsOfOthers", "pkg/controller/web TestAgentTokens", "pkg/controller/web TestLimitedToken",
		"pkg/controller/web TestRetryWithinLimits", "pkg/controller/access TestRun", "pkg/controller/access TestStatic",
	}},
	{"state outlives the process, and goes when its time is over", []string{
		"pkg/controller TestRestart", "pkg/controller TestTakenUp", "pkg/controller TestTakeOver", "pkg/controller TestExpire", "pkg/runner TestAgentsOfEarlierLaunchers",
	}},
	{"a log has every line once, in order, for any number of readers, during and after", []string{
		"pkg/controller/web TestManyReaders", "pkg/controller/web TestLogs", "pkg/controller/web TestReadersThatVanish", "pkg/controller TestReaders", "pkg/controller TestArchive",
		"pkg/controller TestAppendLog", "pkg/agent TestDisconnects",
	}},
	{"runs queue, within limits, can be cancelled and tried again; a timeout stops the work itself", []string{
		"pkg/controller TestOrder", "pkg/controller TestLimitOfSubmitter", "pkg/controller TestCancel", "pkg/controller TestTimeouts", "pkg/controller TestRetry", "pkg/controller TestStopFails",
	}},
	{"credentials are in no environment, command line, log or plain file, and are those of their run alone", []string{
		"pkg/controller TestSecretsAtRest", "pkg/runner TestAgentsKnowLittle", "pkg/agent TestSpoolIsPrivate", "cmd/pipegen TestServerPublishesWithTheRunsCredentials",
	}},
	{"scripts may be of any length", []string{"pkg/controller/web TestLongScripts"}},
	{"TLS is verified, everywhere", []string{"pkg/api TestCertificates", "cmd/pipegen TestServerWithTLS"}},
	{"what ends without a result has not succeeded, and what cannot be started is said", []string{
		"pkg/controller TestEmptyResult", "pkg/controller TestLostAgents/never claimed", "pkg/controller TestLauncherFails", "pkg/controller TestAttemptsEnd", "pkg/runner TestAgentsFail",
	}},
	{"an agent is started with what its own run asks for; what expires is found to its end, and nothing else is", []string{
		"pkg/controller/web TestLaunchesOfTheirOwn", "pkg/controller/web TestForget", "pkg/controller TestExpire",
	}},
	{"an agent that is taken away has a successor, and disk is asked for as memory is", []string{
		"pkg/controller TestLostAgents/died", "pkg/controller/web TestPlansOfThisController",
	}},
	{"CPU and memory mean the same everywhere, and are never cut in silence", []string{"pkg/config TestReadResources", "pkg/config TestAmounts"}},
	{"an index joins what was built, by digest, whatever its tags say by then", []string{"cmd/pipegen TestServerJoinsByDigest", "pkg/manifest TestChildrenAreVerified"}},
	{"a registry may have a port, and a reference no tag", []string{"pkg/registry TestParseReference", "pkg/controller/web TestOriginalWire"}},
	{"contexts keep links, obey .dockerignore, leave .env out, and expire", []string{
		"pkg/buildcontext TestPack", "pkg/buildcontext TestIgnore", "pkg/buildcontext TestRoundTrip", "pkg/controller TestExpire", "pkg/controller/web TestForget",
	}},
	{"a line of a log may be of any length", []string{"pkg/agent TestLines", "pkg/controller TestLongLinesAndNoise"}},
	{"values with commas and blanks arrive as they were written", []string{"pkg/controller/web TestOriginalWire", "pkg/engine TestArgv", "pkg/submission TestLoad/merge"}},
	{"nothing to build is an error", []string{"pkg/submission TestLoad/empty-bake", "pkg/submission TestLoad/no-bake", "pkg/controller/web TestOriginalWire/nothing to build"}},
	{"the verdict is the run's state; a log that ends without one is no success", []string{
		"pkg/client TestFollowVerdict", "pkg/api TestLogEnds", "pkg/controller/web TestOriginalWire", "pkg/controller/web TestDrain",
	}},
	{"unknown keys are errors with their position", []string{
		"pkg/submission TestLoad/config-faults", "pkg/submission TestLoad/compose-unknown-key", "pkg/controller/web TestBodies/unknown field", "pkg/config TestServerFaults",
	}},
	{"builders that nobody maintains are refused", []string{"pkg/config TestBuildConfigFaults/end of life", "pkg/config TestWords"}},
}

// Each promise has its tests.
func TestPromises(t *testing.T) {
	if len(promises) != 20 {
		t.Errorf("there are %d promises", len(promises))
	}
	for _, p := range promises {
		for _, name := range p.tests {
			dir, test, _ := strings.Cut(name, " ")
			test, sub, _ := strings.Cut(test, "/")
			if problem := lacks(filepath.Join("..", "..", dir), test, sub); problem != "" {
				t.Errorf("%s: %s: %s", p.promise, name, problem)
			}
		}
	}
}

// lacks says what is not there of a test and of a case of it.
func lacks(dir, test, sub string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		return "there are no tests"
	}
	declared := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(test) + `\(t \*testing\.T\)`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		if !declared.Match(text) {
			continue
		}
		cases, err := filepath.Glob(filepath.Join(dir, "testdata", "*", sub+".txtar"))
		if sub == "" || strings.Contains(string(text), `"`+sub+`"`) || err == nil && len(cases) > 0 {
			return ""
		}
		return "there is no such case"
	}
	return "there is no such test"
}
