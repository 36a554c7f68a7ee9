package kubernetes

import (
	"context"
	"sync"

	authv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Client speaks to the API server of a cluster, of what agents take and nothing
// else: the clients of all of Kubernetes' API would double this program.
type Client struct {
	core, batch, authorization rest.Interface
}

// NewClient gives a client that reaches a cluster as c says; nothing is sent.
// Errors wrap failure.ErrInput.
func NewClient(c *rest.Config) (*Client, error) {
	shared := rest.CopyConfig(c)
	shared.NegotiatedSerializer = codecs().WithoutConversion()
	if shared.RateLimiter == nil && shared.QPS > 0 {
		shared.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(shared.QPS, shared.Burst)
	}
	connections, err := rest.HTTPClientFor(shared)
	if err != nil {
		return nil, failure.Input("reaching the cluster: %w", err)
	}
	made := new(Client)
	for _, group := range []struct {
		version schema.GroupVersion
		path    string
		client  *rest.Interface
	}{
		{corev1.SchemeGroupVersion, "/api", &made.core},
		{batchv1.SchemeGroupVersion, "/apis", &made.batch},
		{authv1.SchemeGroupVersion, "/apis", &made.authorization},
	} {
		own := rest.CopyConfig(shared)
		own.GroupVersion, own.APIPath = &group.version, group.path
		client, err := rest.RESTClientForConfigAndClient(own, connections)
		if err != nil {
			return nil, failure.Input("reaching the cluster: %w", err)
		}
		*group.client = client
	}
	return made, nil
}

// codecs are for the kinds of objects that are sent and received.
var codecs = sync.OnceValue(func() serializer.CodecFactory {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Secret{}, &corev1.Event{}, &corev1.EventList{}, &corev1.NodeList{})
	s.AddKnownTypes(batchv1.SchemeGroupVersion, &batchv1.Job{}, &batchv1.JobList{})
	s.AddKnownTypes(authv1.SchemeGroupVersion, &authv1.SelfSubjectAccessReview{})
	for _, version := range []schema.GroupVersion{corev1.SchemeGroupVersion, batchv1.SchemeGroupVersion, authv1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(s, version)
	}
	return serializer.NewCodecFactory(s)
})

// version asks an API server for its version, as JSON.
func (c *Client) version(ctx context.Context) ([]byte, error) {
	return c.core.Get().AbsPath("/version").Do(ctx).Raw()
}

// objects are those of one resource, of a namespace if it has any.
type objects struct {
	in                  rest.Interface
	namespace, resource string
}

func (c *Client) jobs(namespace string) objects    { return objects{c.batch, namespace, "jobs"} }
func (c *Client) pods(namespace string) objects    { return objects{c.core, namespace, "pods"} }
func (c *Client) secrets(namespace string) objects { return objects{c.core, namespace, "secrets"} }
func (c *Client) events(namespace string) objects  { return objects{c.core, namespace, "events"} }
func (c *Client) nodes() objects                   { return objects{c.core, "", "nodes"} }
func (c *Client) reviews() objects {
	return objects{c.authorization, "", "selfsubjectaccessreviews"}
}

func (o objects) of(r *rest.Request) *rest.Request {
	return r.NamespaceIfScoped(o.namespace, o.namespace != "").Resource(o.resource)
}

// create makes an object, and gives what it became.
func create[T any, P pointer[T]](ctx context.Context, o objects, object P, options metav1.CreateOptions) (P, error) {
	made := P(new(T))
	err := o.of(o.in.Post()).VersionedParams(&options, metav1.ParameterCodec).Body(object).Do(ctx).Into(made)
	return made, err
}

// pointer is to an object.
type pointer[T any] interface {
	*T
	runtime.Object
}

// get reads the object of this name into out.
func (o objects) get(ctx context.Context, name string, out runtime.Object) error {
	return o.of(o.in.Get()).Name(name).Do(ctx).Into(out)
}

// list reads all that there are into out.
func (o objects) list(ctx context.Context, out runtime.Object, options metav1.ListOptions) error {
	return o.of(o.in.Get()).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(out)
}

func (o objects) delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return o.of(o.in.Delete()).Name(name).Body(&options).Do(ctx).Error()
}
