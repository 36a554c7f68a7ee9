package config

import "slices"

// ServerLogCopy says where copies of the logs of builds go.
type ServerLogCopy struct {
	// Log group of CloudWatch; made if it is not there, and that is allowed.
	LogGroup string `yaml:"log_group"`
	// What names of streams begin with; the run's id follows.
	StreamPrefix string `yaml:"stream_prefix,omitempty"`
	// Region; default: $AWS_REGION, or as AWS's tools have it.
	Region string `yaml:"region,omitempty"`
	// How many days a group that is made keeps them; default: for ever.
	RetentionDays int `yaml:"retention_days,omitempty"`
}

// retentionDays is what CloudWatch takes.
// https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
var retentionDays = []int{1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}

func (c checker) logCopy(l *ServerLogCopy) {
	if l == nil {
		return
	}
	switch {
	case l.LogGroup == "":
		c.fault("missing-key", "log_group: /pipegen/builds", at("log_group"), "log_copy has no log_group")
	case !awsLogGroup.MatchString(l.LogGroup):
		c.fault("bad-value", "/pipegen/builds", at("log_group"), "log_group %s is no name of a log group", show(l.LogGroup))
	}
	if l.StreamPrefix != "" && (!awsLogGroup.MatchString(l.StreamPrefix) || len(l.StreamPrefix) > 400) {
		c.fault("bad-value", "letters, digits and _./#-", at("stream_prefix"), "stream_prefix %s cannot begin the name of a stream", show(l.StreamPrefix))
	}
	if l.Region != "" && !awsRegion.MatchString(l.Region) {
		c.fault("bad-region", "such as eu-central-1", at("region"), "%s is no region", show(l.Region))
	}
	if l.RetentionDays != 0 && !slices.Contains(retentionDays, l.RetentionDays) {
		c.fault("bad-number", "CloudWatch takes 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365 and some more", at("retention_days"), "CloudWatch does not keep logs for %d days", l.RetentionDays)
	}
}
