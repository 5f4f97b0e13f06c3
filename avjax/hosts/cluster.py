"""Which of how many processes this one is: from flags, JAX's variables, or the cluster.

Clusters are queried as JAX does it (jax._src.clusters), but for the number of processes first: a
job of one process needs nothing else, and must start where the cluster answers nothing more. Each
answer names its source, and errors name the cluster.
"""

import dataclasses
import os
import re
import socket
import warnings

from jax._src import clusters

from avjax.errors import UserError
from avjax.hosts.peers import Restart, log

# (number of processes, own number) from launchers that give no address of process 0: Open MPI 5
# (which JAX 0.10 does not see), MPICH and Intel MPI, MVAPICH, torchrun.
LAUNCHERS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"),
             ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"), ("WORLD_SIZE", "RANK"))
RANKS = ("JOB_COMPLETION_INDEX", "SLURM_PROCID", *(rank for _, rank in LAUNCHERS))
INDEX = "JOB_COMPLETION_INDEX"  # of a pod of an indexed Job, the only pods that JAX numbers
ALONE_HINT = "--processes=1 (or JAX_NUM_PROCESSES=1) if this process is the only one"
COORDINATOR_HINT = ("else --coordinator=HOST:PORT of process 0, or JAX_COORDINATOR_ADDRESS, on "
                    "every one")
CLUSTERS = {"OmpiCluster": ("Open MPI", "OMPI_COMM_WORLD_SIZE"),
            "SlurmCluster": ("SLURM", "SLURM_NTASKS"),
            "GkeTpuCluster": ("GKE's TPU slice", "TPU_WORKER_HOSTNAMES"),
            "GceTpuCluster": ("the TPU slice's metadata server", "worker-network-endpoints"),
            "K8sCluster": ("Kubernetes", "the Job's parallelism")}


@dataclasses.dataclass(frozen=True)
class Place:
    """Process `me` of `count`.

    Attributes:
      source: where the count comes from, e.g. "SLURM_NTASKS=4".
      address: "machine:port" of process 0; None = unknown.
      local: the devices of this process; None = all of its machine.
    """

    me: int
    count: int
    source: str
    address: str | None = None
    local: tuple[int, ...] | None = None


def find(coordinator: str = "", processes: int | None = None, process_id: int | None = None,
         seconds: float = 60.0) -> Place | None:
    """This process' place; None for a job of one. The arguments are the command line's.

    Raises:
      UserError: an incomplete description, or one of several processes that the cluster does not
        describe.
      Restart: the cluster did not answer within `seconds`, but may later.
    """
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    count = processes or number("JAX_NUM_PROCESSES")
    me = process_id if process_id is not None or processes == 1 else number("JAX_PROCESS_ID")
    source = f"--processes={count}" if processes else f"JAX_NUM_PROCESSES={count}"
    launched = _place_from_launcher()
    if address and not re.fullmatch(r"[^:\s]+:\d+|\[.+\]:\d+", address):
        raise UserError("not the address of process 0",
                        where="--coordinator or JAX_COORDINATOR_ADDRESS",
                        expected="MACHINE:PORT", found=address)
    if me is None and address:
        if count is None and launched:
            count, me, source = launched.count, launched.me, launched.source
        elif count:
            me = next((rank for rank in map(_digits, RANKS) if rank is not None), None)
    if count == 1:
        place = Place(me or 0, 1, source)
    elif address and count and me is not None:
        place = Place(me, count, source, address)
    else:
        known = Place(-1 if me is None else me, count or 0, source, address)
        place = _place_from_cluster(known, launched, seconds)
    if not 0 <= place.me < place.count:
        raise UserError("no such process", where="--process_id or JAX_PROCESS_ID",
                        expected=f"0 to {place.count - 1}, by {place.source}", found=str(place.me))
    return place if place.count > 1 else None


def number(name: str) -> int | None:
    """The value of an environment variable; None where it is empty or unset."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise UserError("not a number", where=name, found=text) from error


def _digits(name: str) -> int | None:
    """As `number`, but None also where the variable holds something else."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdigit() else None


def _place_from_launcher() -> Place | None:
    """By a launcher that JAX does not know; None unless it started several processes."""
    pairs = [(*map(_digits, pair), pair[0]) for pair in LAUNCHERS]
    pairs.append((*_hosts_of_slice(), "TPU_WORKER_HOSTNAMES"))
    return next((Place(me, count, f"{name}={os.environ.get(name)}") for count, me, name in pairs
                 if count and count > 1 and me is not None), None)


def _hosts_of_slice() -> tuple[int | None, int | None]:
    """(processes, own number) in a TPU slice of GKE, also where no TPU is found (which JAX takes
    for a job of one)."""
    hosts, me = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")), _digits("TPU_WORKER_ID")
    count, index = _digits("MEGASCALE_NUM_SLICES") or 1, _digits("MEGASCALE_SLICE_ID") or 0
    return hosts * count, None if me is None else me + index * hosts


def _place_from_cluster(known: Place, launched: Place | None, seconds: float) -> Place:
    """Completes what is not `known` (me -1, count 0, address None) from the cluster that this
    process runs on."""
    for kind in clusters.ClusterEnv._cluster_types:
        if kind.opt_in_only_method:  # mpi4py
            continue
        if (launched and kind.__name__ == "OmpiCluster"
                and "OMPI_MCA_orte_hnp_uri" not in os.environ):
            # Open MPI 5 gives no address: JAX 0.10 does not see it, 0.11 asks mpi4py for one.
            continue
        found = _query(kind, known, seconds)
        if found and launched and kind.name == "slurm" and found.count != launched.count:
            # SLURM counts the daemons that start mpirun's or torchrun's own processes.
            continue
        if found:
            return found
    if known.me >= 0 or known.count or known.address:
        missing = [name for name, is_there in (
            ("--coordinator or JAX_COORDINATOR_ADDRESS", known.address),
            ("--processes or JAX_NUM_PROCESSES", known.count),
            ("--process_id or JAX_PROCESS_ID", known.me >= 0)) if not is_there]
        raise UserError("the description of the processes is not whole", where="distributed job",
                        expected=" and ".join(missing),
                        hint="give all three, or none for a single process")
    if launched:
        return launched
    if index := number(INDEX):
        raise UserError("this pod is one of several, and nothing says of how many",
                        where=f"{INDEX}={index}", expected="JAX_COORDINATOR_ADDRESS and "
                        "JAX_NUM_PROCESSES, or the package `kubernetes`", hint=ALONE_HINT)
    _log_unused_slurm_tasks()
    return Place(0, 1, "")


def _query(kind: type[clusters.ClusterEnv], known: Place, seconds: float) -> Place | None:
    """The place by one kind of cluster; None where this is no such cluster, or it tells nothing
    about a single process."""
    name, source = CLUSTERS.get(kind.__name__, (kind.__name__, kind.__name__))
    if kind.__name__ == "K8sCluster" and INDEX not in os.environ:
        # JAX numbers pods by it; and most service accounts may not query jobs, or have no token.
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Kubernetes client that is not installed
            if not kind.is_env_present():
                return None
            count = known.count or kind.get_process_count()
            told_by = known.source if known.count else f"{source}={count}"
            step = _digits("SLURM_STEP_NUM_TASKS")
            if kind.name == "slurm" and not known.count and step:
                # An interactive step of salloc has one task, but the SLURM_NTASKS of the whole job.
                count = step
                told_by = f"SLURM_STEP_NUM_TASKS={step}"
            if count == 1:
                _log_unused_slurm_tasks()
                return Place(0, 1, told_by)
            me = known.me if known.me >= 0 else kind.get_process_id()
            address = known.address or kind.get_coordinator_address(
                timeout_secs=int(seconds),
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"))
            return Place(me, count, told_by, address, _devices(kind))
    except UserError:
        raise
    except Exception as error:  # whatever the client of a cluster raises
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if kind.__name__ == "GceTpuCluster" and _is_not_google_cloud():
            return None
        if _is_transient(error):
            raise Restart(f"{name} did not say within {seconds:.0f} s where this job's processes "
                          f"are ({text}); {ALONE_HINT}, {COORDINATOR_HINT}") from error
        if kind.__name__ == "K8sCluster" and number(INDEX) == 0:
            log(f"one process: {name} does not say whether there are others ({text}); if there "
                "are, they end with an error, and need JAX_COORDINATOR_ADDRESS and "
                "JAX_NUM_PROCESSES, or a service account that reads jobs")
            return None
        raise UserError(f"{name} does not say where this job's processes are",
                        where="cluster detection", found=text,
                        hint=f"{ALONE_HINT}, {COORDINATOR_HINT}") from error


def _devices(kind: type[clusters.ClusterEnv]) -> tuple[int, ...] | None:
    """This process' devices: one where its machine has several processes, None = all of them."""
    tpu = kind.__name__ in ("GkeTpuCluster", "GceTpuCluster")
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0] == "1"
    index = None if tpu or alone else kind.get_local_process_id()
    return None if index is None else (index,)


def _is_transient(error: BaseException) -> bool:
    """Whether a later start may succeed: names and servers that do not answer yet, but not
    refusals."""
    while error is not None:
        status = getattr(error, "status", None)
        if isinstance(status, int):
            return status == 429 or status >= 500
        if isinstance(error, FileNotFoundError):  # a token, a namespace
            return False
        if isinstance(error, OSError) or "Failed to recognize coordinator" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_not_google_cloud() -> bool:
    """Whether this machine, which has TPUs, is not Google Cloud's, whose metadata server always has
    an address."""
    try:
        socket.gethostbyname(os.environ.get("GCE_METADATA_IP", "metadata.google.internal"))
    except OSError:
        return True
    return False


def _log_unused_slurm_tasks() -> None:
    """Logs that SLURM allocated more tasks than the one process started by `python` without
    srun."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    if "SLURM_JOB_ID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        log(f"one process, by itself: the allocation is for {tasks} (SLURM_NTASKS={tasks}), but "
            "only this one was started here; `srun python -m ...` starts all")
