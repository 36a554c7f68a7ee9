package render

import "gopkg.in/yaml.v3"

// tokenVariable names the secret with the token for the controller, and
// serverVariable the variable with its URL.
const (
	tokenVariable  = "PIPEGEN_TOKEN" //nolint:gosec // the name of a variable
	serverVariable = "PIPEGEN_SERVER"
	// audienceVariable has pipegen ask GitHub for the identity of the job in the
	// place of a token.
	audienceVariable = "PIPEGEN_TOKEN_AUDIENCE"
)

// ifControlled gives text that is there only if the controller builds an image.
func (g *github) ifControlled(text string) string {
	if g.controlled {
		return text
	}
	return ""
}

// runJob has the controller build and publish an image. What no file of a
// result means is missing. It signs in as the job does that publishes: what it
// signs in with is handed to it for this one run. It has no concurrency group:
// of those that wait GitHub keeps the newest alone, and builds take long.
func (g *github) runJob(missing string) (*yaml.Node, error) {
	env := g.building()
	if g.publish.token && lookup(env, "GITHUB_TOKEN") == nil {
		env.Content = append(env.Content, mapping("GITHUB_TOKEN", "${{ github.token }}").Content...)
	}
	signIn := g.publish
	if signIn.shows = g.audience != ""; signIn.shows {
		env.Content = append(env.Content, mapping(audienceVariable, literally(g.audience)).Content...)
	} else {
		env.Content = append(env.Content, secretsOf([]string{tokenVariable}).Content...)
	}
	return g.job(kindRun, mapping(
		"name", "run",
		"if", "${{ !cancelled() && inputs.runner != '' }}",
		"runs-on", lightLabel,
		"timeout-minutes", githubMinutes(g.controllerLimit),
		"permissions", signIn.permissions("write"),
		"env", g.environment(signIn, "PIPEGEN_NAME", "${{ inputs.image }}", "PIPEGEN_RUNNER", "${{ inputs.runner }}", serverVariable, "${{ vars."+serverVariable+" }}"),
	), 1, signIn, []*yaml.Node{
		download("Fetch the plan", "name", planArtifact, "."),
		fetchNeeds(),
		mapping("name", "Build and publish", "run", `exec pipegen run "$PIPEGEN_NAME" --plan plan.json --runner "$PIPEGEN_RUNNER"`, "env", env),
		upload("Keep the result", indexArtifact+"${{ inputs.image }}", ".pipegen/indexes/${{ inputs.image }}.json", "", missing),
	})
}
