package ecs

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Two questions of pipegen doctor are to services whose libraries would make
// the program half as large again: they are asked by hand.

// deniedError says that an identity may not ask.
type deniedError struct{ code string }

func (e *deniedError) Error() string { return "not allowed: " + e.code }

// ask sends a signed request to a service of the region.
func (l *Launcher) ask(ctx context.Context, service string, header map[string]string, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	// The address of STS says how those of the partition are made, or where an emulator is.
	endpoint := strings.Replace(l.sts, "://sts.", "://"+service+".", 1)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.URL.Path = "/"
	for name, value := range header {
		r.Header.Set(name, value)
	}
	who, err := l.cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("getting credentials of AWS: %w", err)
	}
	if err := v4.NewSigner().SignHTTP(ctx, who, r, sum(body), service, l.s.Region, time.Now()); err != nil {
		return nil, err
	}
	answer, err := l.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking %s of AWS: %w", service, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("asking %s of AWS: %w", service, err)
	}
	if answer.StatusCode == http.StatusOK {
		return text, nil
	}
	for _, code := range []string{"UnauthorizedOperation", "AccessDenied"} {
		if strings.Contains(string(text), code) {
			return nil, &deniedError{code}
		}
	}
	return nil, fmt.Errorf("asking %s of AWS: status %d: %s", service, answer.StatusCode, quote.Text(string(text[:min(len(text), 300)])))
}

// subnet is what EC2 says of one.
type subnet struct {
	ID   string `xml:"subnetId"`
	VPC  string `xml:"vpcId"`
	Zone string `xml:"availabilityZone"`
	Free int    `xml:"availableIpAddressCount"`
}

// subnets gives those of the settings that there are, by their ids.
func (l *Launcher) subnets(ctx context.Context) (map[string]subnet, error) {
	form := url.Values{"Action": {"DescribeSubnets"}, "Version": {"2016-11-15"}, "Filter.1.Name": {"subnet-id"}}
	for i, id := range l.s.Subnets {
		form.Set(fmt.Sprintf("Filter.1.Value.%d", i+1), id)
	}
	text, err := l.ask(ctx, "ec2", map[string]string{"Content-Type": formType}, form.Encode())
	if err != nil {
		return nil, err
	}
	var out struct {
		Subnets []subnet `xml:"subnetSet>item"`
	}
	if err := xml.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("asking ec2 of AWS: %w", err)
	}
	found := map[string]subnet{}
	for _, s := range out.Subnets {
		found[s.ID] = s
	}
	return found, nil
}

// quota gives a quota of Fargate.
func (l *Launcher) quota(ctx context.Context, code string) (float64, error) {
	body, err := json.Marshal(map[string]string{"ServiceCode": "fargate", "QuotaCode": code})
	if err != nil {
		return 0, err
	}
	text, err := l.ask(ctx, "servicequotas", map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "ServiceQuotasV20190624.GetServiceQuota"}, string(body))
	if err != nil {
		return 0, err
	}
	var out struct{ Quota struct{ Value float64 } }
	if err := json.Unmarshal(text, &out); err != nil {
		return 0, fmt.Errorf("asking servicequotas of AWS: %w", err)
	}
	return out.Quota.Value, nil
}
