"""GKE: one JobSet per job (apiVersion jobset.x-k8s.io/v1alpha2; fields as of JobSet 0.10, read from
its API types), `kubectl apply`.

One replicated job is one slice, one pod one host. JobSet makes the headless service, by whose names
the pods find each other; GKE's webhook gives pods with TPUs TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and
MEGASCALE_*, which jax.distributed reads. Pods with GPUs or CPUs get JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import re

import yaml

from avjax.errors import UserError
from launch.targets import FATAL, Job, Place, Submission, packaging

NEEDS = ("accelerator", "image")
OPTIONS = ("max_restarts", "grace", "cluster", "queue", "reservation", "spot", "service_account",
           "namespace", "mount")
PLATFORMS = ("tpu", "gpu", "cpu")
CONTAINER = "avjax"  # of the pod
SLICE = "slice"  # name of the replicated job
PORT = 8482  # of jax.distributed's coordinator
KEPT = 24 * 3600  # seconds for which a finished JobSet and its logs stay
MOUNT = re.compile(r"(gs://[^/:]+|/[^:]+|[a-z0-9][-.a-z0-9]*):(/[^/:][^:]*)")  # (what, where)
_RESOURCES = {"tpu": "google.com/tpu", "gpu": "nvidia.com/gpu"}


def render(jobs: list[Job], place: Place) -> Submission:
    """One manifest per job, the Dockerfile, and the commands that pack, build, push and apply."""
    files = {"Dockerfile": packaging.dockerfile(place.image, place.revision, place.extras)}
    commands = [*packaging.image_commands(place.image, place.revision)]
    context = (f"--context={place.cluster}",) if place.cluster else ()
    for job in jobs:
        files[f"{job.name}.yaml"] = yaml.safe_dump(manifest(job, place), sort_keys=False,
                                                   width=1000)
        commands.append(("kubectl", *context, "apply", "--filename", f"{job.name}.yaml"))
    first = jobs[0].name
    kubectl = " ".join(("kubectl", *context,
                        *((f"--namespace={place.namespace}",) if place.namespace else ())))
    return Submission(files, tuple(commands), (
        f"watch: {kubectl} logs --follow --prefix "
        f"--selector=jobset.sigs.k8s.io/jobset-name={first}\n"
        f"state: {kubectl} get jobset {first}\n"
        f"end:   {kubectl} delete jobset {first}"))


def manifest(job: Job, place: Place) -> dict:
    """The JobSet of one job."""
    metadata = {"name": job.name}
    if place.namespace:
        metadata["namespace"] = place.namespace
    if place.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": place.queue}
    if place.accelerator.platform == "tpu":  # a slice has a node pool to itself
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology":
                                   "cloud.google.com/gke-nodepool"}
    slices = place.slices if place.accelerator.platform == "tpu" else 1
    hosts = place.accelerator.hosts * (place.slices if slices == 1 else 1)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata,
        "spec": {
            "ttlSecondsAfterFinished": KEPT,
            "network": {"enableDNSHostnames": True, "subdomain": job.name,
                        "publishNotReadyAddresses": True},
            # The whole set starts again when a pod ends with 75 or by a signal, and never after a
            # code of FATAL.
            "failurePolicy": {"maxRestarts": place.max_restarts, "rules": [
                {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                {"action": "RestartJobSet", "onJobFailureReasons": ["BackoffLimitExceeded"]}]},
            "replicatedJobs": [{"name": SLICE, "replicas": slices, "template": {"spec": {
                "completionMode": "Indexed", "parallelism": hosts, "completions": hosts,
                "backoffLimit": 0,  # one pod down, all down: collectives need all of them
                "podFailurePolicy": {"rules": [
                    {"action": "FailJob",
                     "onExitCodes": {"containerName": CONTAINER, "operator": "In",
                                     "values": list(FATAL)}}]},
                "template": _bucket_reader(place) | {"spec": _pod(job, place, hosts)}}}}]}}


def _pod(job: Job, place: Place, hosts: int) -> dict:
    accelerator = place.accelerator
    selector = {}
    if accelerator.platform == "tpu":
        selector = {"cloud.google.com/gke-tpu-accelerator": accelerator.label,
                    "cloud.google.com/gke-tpu-topology": accelerator.shape_text}
    elif accelerator.platform == "gpu":
        selector = {"cloud.google.com/gke-accelerator": accelerator.label}
    tolerations = []
    if resource := _RESOURCES.get(accelerator.platform):
        tolerations.append({"key": resource, "operator": "Exists", "effect": "NoSchedule"})
    if place.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Equal",
                            "value": "true", "effect": "NoSchedule"})
    if place.reservation:
        selector["cloud.google.com/reservation-name"] = place.reservation
    container = {"name": CONTAINER, "image": f"{place.image}:{place.revision}",
                 "command": list(job.command),
                 "env": [{"name": name, "value": value} for name, value in job.environment.items()]}
    if accelerator.platform == "tpu":
        # of the TPU runtime and of Megascale
        container["ports"] = [{"containerPort": 8471}, {"containerPort": 8080}]
        container["securityContext"] = {"privileged": True}  # the TPU's device files
    else:
        container["env"] += _addresses(job, hosts)
    if resource:
        container["resources"] = {"limits": {resource: accelerator.chips_per_host}}
    # Without a volume /dev/shm has 64 MiB.
    volumes = {"/dev/shm": {"emptyDir": {"medium": "Memory"}}} | _mounted(place, bool(resource))
    container["volumeMounts"] = [{"name": f"volume-{i}", "mountPath": path}
                                 for i, path in enumerate(volumes)]
    pod = {"restartPolicy": "Never", "nodeSelector": selector, "tolerations": tolerations,
           "terminationGracePeriodSeconds": place.grace}
    # A pod has its host to itself, and the hosts' network is faster than the pods'.
    if resource:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if place.service_account:
        pod["serviceAccountName"] = place.service_account
    return {key: value for key, value in pod.items() if value not in ({}, [])} | {
        "containers": [container],
        "volumes": [{"name": f"volume-{i}"} | source for i, source in enumerate(volumes.values())]}


def _mounted(place: Place, host_network: bool) -> dict[str, dict]:
    """{path in the pod: the volume's source} of --mount. UserError: not of that form."""
    sources = {}
    for text in filter(None, place.mount.split(",")):
        found = MOUNT.fullmatch(text)
        if not found:
            raise UserError("not a mount", where="--mount", found=repr(text),
                            expected="CLAIM:/path, gs://BUCKET:/path or /folder/of/the/node:/path")
        what, path = found.groups()
        # Cloud Storage FUSE's driver; on the host's network it uses the pod's account by option
        # only
        if what.startswith("gs://"):
            own = {"hostNetworkPodKSA": "true"} if host_network else {}
            sources[path] = {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True,
                                     "volumeAttributes": {
                "bucketName": what.removeprefix("gs://"), "mountOptions": "implicit-dirs"} | own}}
        elif what.startswith("/"):
            sources[path] = {"hostPath": {"path": what, "type": "DirectoryOrCreate"}}
        else:
            sources[path] = {"persistentVolumeClaim": {"claimName": what}}
    return sources


def _bucket_reader(place: Place) -> dict:
    """The pods' metadata by which GKE adds the container that reads buckets."""
    annotations = {"gke-gcsfuse/volumes": "true"}
    return {"metadata": {"annotations": annotations}} if "gs://" in place.mount else {}


def _addresses(job: Job, hosts: int) -> list[dict]:
    """Pod k of n, and pod 0's name: <jobset>-<replicated job>-<its index>-<pod
    index>.<subdomain>."""
    index = {"fieldRef":
             {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    return [{"name": "JAX_COORDINATOR_ADDRESS",
             "value": f"{job.name}-{SLICE}-0-0.{job.name}:{PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
            {"name": "JAX_PROCESS_ID", "valueFrom": index}]
