package awstest

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// refusal is an error as AWS gives it.
type refusal struct {
	code, message string
	// Of HTTP; 0: as the service's protocol has it for a wrong request.
	status int
}

const requestID = "5b2c7d1e-0000-4000-8000-a35ec0ffee00"

// refuse answers a request with an error in the shape of its service.
func refuse(w http.ResponseWriter, r *request, e refusal) {
	w.Header().Set("X-Amzn-Requestid", requestID)
	if r.service == "s3" {
		refuseS3(w, r, e)
		return
	}
	status := e.status
	if r.input != nil || r.form == nil {
		if status == 0 {
			status = http.StatusBadRequest
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.code, "message": e.message})
		return
	}
	code := e.code
	if status == 0 {
		status = http.StatusBadRequest
	}
	body := `<ErrorResponse xmlns="https://%s.amazonaws.com/doc/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>`
	if r.service == "ec2" {
		body = `<Response xmlns="http://%s.amazonaws.com/doc/2016-11-15/"><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>%s</RequestID></Response>`
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, body, r.service, code, escape(e.message), requestID)
}

func refuseS3(w http.ResponseWriter, r *request, e refusal) {
	status := e.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	_, _ = io.CopyN(io.Discard, r.Body, 64<<20) // so that the client reads the answer
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message><RequestId>%s</RequestId><HostId>test</HostId></Error>`,
			e.code, escape(e.message), requestID)
	}
}

// denied is the refusal of an action that no policy grants.
func (r *request) denied(who identity, action, resource string) refusal {
	message := fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action",
		who.arn(), action, resource, action)
	switch {
	case r.service == "s3":
		return refusal{"AccessDenied", message, http.StatusForbidden}
	case r.service == "ec2":
		return refusal{"UnauthorizedOperation", "You are not authorized to perform this operation. " + message, http.StatusForbidden}
	case r.form != nil:
		return refusal{"AccessDenied", message, http.StatusForbidden}
	default:
		return refusal{"AccessDeniedException", message, http.StatusBadRequest}
	}
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}
