// A program of client-go's typed clientset that speaks protobuf and nothing
// else, as operators built on controller-runtime do when they write. It knows
// of the server what KUBECONFIG says, and ends with 1 at the first surprise.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const namespace = "go-client"

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v (%#v)\n", err, err)
		os.Exit(1)
	}
}

func equal(what string, found, expected any) {
	if !reflect.DeepEqual(found, expected) {
		check(fmt.Errorf("%s: found %#v, expected %#v", what, found, expected))
	}
}

func main() {
	config := must(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	// The second is "protobuf, or anything" when it is not set.
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	client := must(kubernetes.NewForConfig(config))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	space = must(client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}))
	equal("the namespace's phase", space.Status.Phase, corev1.NamespaceActive)
	_, err := client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{})
	equal("an error's type", apierrors.IsAlreadyExists(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err), true)
	leaders(ctx, client)
	maps(ctx, client)
	jobs(ctx, client)
	pods(ctx, client)
	check(client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	fmt.Println("created, read, watched, updated and deleted")
}

// ConfigMaps: every verb, and a watch beside them.
func maps(ctx context.Context, client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	events := must(maps.Watch(ctx, metav1.ListOptions{LabelSelector: "app=x"}))
	defer events.Stop()
	written := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings", Labels: map[string]string{"app": "x"}},
		Data:       map[string]string{"a": "1", "empty": ""},
		BinaryData: map[string][]byte{"raw": {0, 255, 7}},
	}
	created := must(maps.Create(ctx, written, metav1.CreateOptions{FieldManager: "go"}))
	equal("data", created.Data, written.Data)
	equal("binary data", created.BinaryData, written.BinaryData)
	equal("a time", time.Since(created.CreationTimestamp.Time) < time.Hour, true)
	equal("a manager", created.ManagedFields[0].Manager, "go")
	equal("fields", len(created.ManagedFields[0].FieldsV1.Raw) > 2, true)

	created.Data["a"] = "2"
	updated := must(maps.Update(ctx, created, metav1.UpdateOptions{}))
	equal("an update", updated.Data["a"], "2")
	created.ResourceVersion = "1"
	_, err := maps.Update(ctx, created, metav1.UpdateOptions{})
	equal("a stale update", apierrors.IsConflict(err), true)
	patch := []byte(`{"data":{"b":"3"}}`)
	patched := must(maps.Patch(ctx, "settings", types.MergePatchType, patch, metav1.PatchOptions{}))
	equal("a patch", patched.Data["b"], "3")
	got := must(maps.Get(ctx, "settings", metav1.GetOptions{}))
	equal("what is got", got.Data, patched.Data)
	// Every namespace has the certificate authority besides.
	listed := must(maps.List(ctx, metav1.ListOptions{Limit: 10, FieldSelector: "metadata.name=settings"}))
	equal("a list", len(listed.Items), 1)
	equal("a list's item", listed.Items[0].Data, got.Data)
	_, err = maps.Get(ctx, "nothing", metav1.GetOptions{})
	equal("nothing", apierrors.IsNotFound(err), true)
	equal("why", err.(apierrors.APIStatus).Status().Details.Name, "nothing")

	uid := got.UID
	zero := int64(0)
	check(maps.Delete(ctx, "settings", metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid},
	}))
	var seen []watch.EventType
	for event := range events.ResultChan() {
		object, ok := event.Object.(*corev1.ConfigMap)
		equal("an event's object", ok, true)
		equal("an event's name", object.Name, "settings")
		seen = append(seen, event.Type)
		if event.Type == watch.Deleted {
			break
		}
	}
	equal("events", seen, []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted})
	fmt.Println("config maps")
}

func template() corev1.PodTemplateSpec {
	no := false
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "go"}},
		Spec: corev1.PodSpec{
			RestartPolicy:                corev1.RestartPolicyNever,
			AutomountServiceAccountToken: &no,
			// Nothing runs it: what is asked is how it is stored.
			NodeSelector: map[string]string{"never": "there"},
			Volumes: []corev1.Volume{
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
				}}},
			},
			Containers: []corev1.Container{{
				Name: "main", Image: "cumulo.dev/runtime", Command: []string{"true"},
				Env: []corev1.EnvVar{
					{Name: "A", Value: "1"},
					{Name: "NAME", ValueFrom: &corev1.EnvVarSource{
						FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"},
					}},
				},
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "keys"},
				}}},
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi"),
				}},
				LivenessProbe: &corev1.Probe{PeriodSeconds: 7, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http"), Path: "/live"},
				}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
					TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)},
				}},
			}},
		},
	}
}

// What template() says, as it has to come back.
func same(spec corev1.PodSpec) {
	wanted := template().Spec
	main, container := wanted.Containers[0], spec.Containers[0]
	equal("a false", *spec.AutomountServiceAccountToken, false)
	equal("an empty directory", spec.Volumes[0], wanted.Volumes[0])
	equal("a volume's name", spec.Volumes[1].ConfigMap.Name, "settings")
	equal("a default", *spec.Volumes[1].ConfigMap.DefaultMode, int32(420))
	equal("a variable", container.Env[0], main.Env[0])
	equal("a field", container.Env[1].ValueFrom.FieldRef.FieldPath, "metadata.name")
	equal("an inlined name", container.EnvFrom, main.EnvFrom)
	equal("a quantity", container.Resources.Limits.Cpu().String(), "500m")
	equal("a request", container.Resources.Requests.Memory().String(), "1Gi")
	equal("a named port", container.LivenessProbe.HTTPGet.Port, intstr.FromString("http"))
	equal("a number", container.ReadinessProbe.TCPSocket.Port, intstr.FromInt32(8080))
	equal("seconds", container.LivenessProbe.PeriodSeconds, int32(7))
}

func jobs(ctx context.Context, client kubernetes.Interface) {
	jobs := client.BatchV1().Jobs(namespace)
	none, yes := int32(0), true
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "job-"},
		Spec:       batchv1.JobSpec{BackoffLimit: &none, Suspend: &yes, Template: template()},
	}
	created := must(jobs.Create(ctx, job, metav1.CreateOptions{}))
	equal("a zero that is set", *created.Spec.BackoffLimit, int32(0))
	equal("a default", *created.Spec.Completions, int32(1))
	same(created.Spec.Template.Spec)
	start := metav1.NewTime(time.Unix(1700000000, 0))
	created.Status.StartTime = &start
	created.Status.Active = 3
	updated := must(jobs.UpdateStatus(ctx, created, metav1.UpdateOptions{}))
	equal("a status", updated.Status.Active, int32(3))
	equal("a time", updated.Status.StartTime.Equal(&start), true)
	listed := must(jobs.List(ctx, metav1.ListOptions{}))
	equal("jobs", len(listed.Items), 1)
	policy := metav1.DeletePropagationBackground
	check(jobs.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &policy}, metav1.ListOptions{}))
	equal("jobs", len(must(jobs.List(ctx, metav1.ListOptions{})).Items), 0)
	fmt.Println("jobs")
}

func pods(ctx context.Context, client kubernetes.Interface) {
	pods := client.CoreV1().Pods(namespace)
	wanted := template()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod", Labels: wanted.Labels}, Spec: wanted.Spec,
	}
	created := must(pods.Create(ctx, pod, metav1.CreateOptions{}))
	same(created.Spec)
	equal("a phase", created.Status.Phase, corev1.PodPending)
	// A stream that begins with what is there, as informers ask for it.
	yes := true
	events := must(pods.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}))
	added := <-events.ResultChan()
	equal("the first event", added.Type, watch.Added)
	same(added.Object.(*corev1.Pod).Spec)
	for event := range events.ResultChan() {
		if event.Type == watch.Bookmark {
			mark := event.Object.(*corev1.Pod)
			equal("a bookmark", mark.Annotations[metav1.InitialEventsAnnotationKey], "true")
			break
		}
	}
	events.Stop()
	zero := int64(0)
	check(pods.Delete(ctx, "pod", metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	fmt.Println("pods")
}

// leaders: of two that want to lead one does, and the other when that one stops.
func leaders(ctx context.Context, client kubernetes.Interface) {
	led := make(chan string, 2)
	campaign := func(ctx context.Context, name string) {
		lock := &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: namespace},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock:            lock,
			ReleaseOnCancel: true,
			LeaseDuration:   3 * time.Second,
			RenewDeadline:   2 * time.Second,
			RetryPeriod:     100 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { led <- name },
				OnStoppedLeading: func() {},
			},
		})
	}
	first, stop := context.WithCancel(ctx)
	go campaign(first, "first")
	equal("who leads", <-led, "first")
	second, end := context.WithCancel(ctx)
	defer end()
	go campaign(second, "second")
	lease := must(client.CoordinationV1().Leases(namespace).Get(ctx, "leader", metav1.GetOptions{}))
	equal("the holder", *lease.Spec.HolderIdentity, "first")
	stop()
	equal("who leads then", <-led, "second")
}
