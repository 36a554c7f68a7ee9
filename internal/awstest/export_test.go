package awstest

// Allowed is for tests.
func Allowed(policies []Policy, action, resource string, context map[string][]string) bool {
	_, ok := allowed(policies, action, resource, context)
	return ok
}
