"""Which of how many processes this one is: by flags, by JAX's variables, else as the cluster says.

Clusters are asked as JAX asks them (jax._src.clusters), but for the number of processes first: a
job of one needs nothing else, so that what a cluster refuses to tell does not keep it from
starting. Each answer says where it comes from, and a cluster that fails is named.
"""

import dataclasses
import os
import re
import socket
import warnings

from jax._src import clusters

from avjax.errors import UserError
from avjax.hosts.peers import Restart, say

# Number of processes and own number as other launchers tell them: Open MPI 5 (which JAX 0.10 does
# not see), MPICH and Intel MPI, MVAPICH, torchrun. They say nothing of where process 0 is.
LAUNCHERS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"),
             ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"), ("WORLD_SIZE", "RANK"))
RANKS = ("JOB_COMPLETION_INDEX", "SLURM_PROCID", *(rank for _, rank in LAUNCHERS))
INDEX = "JOB_COMPLETION_INDEX"  # of a pod of an indexed Job: JAX takes no other for one of several
ALONE = "--processes=1 (or JAX_NUM_PROCESSES=1) if this process is the only one"
GIVE = "else --coordinator=HOST:PORT of process 0, or JAX_COORDINATOR_ADDRESS, on every one"
CLUSTERS = {"OmpiCluster": ("Open MPI", "OMPI_COMM_WORLD_SIZE"),
            "SlurmCluster": ("SLURM", "SLURM_NTASKS"),
            "GkeTpuCluster": ("GKE's TPU slice", "TPU_WORKER_HOSTNAMES"),
            "GceTpuCluster": ("the TPU slice's metadata server", "worker-network-endpoints"),
            "K8sCluster": ("Kubernetes", "the Job's parallelism")}


@dataclasses.dataclass(frozen=True)
class Place:
    """Process `me` of `count`.

    Attributes:
      by: what says how many there are, e.g. "SLURM_NTASKS=4".
      address: "machine:port" of process 0; None where nothing says.
      local: the devices of this process; None = all of its machine.
    """

    me: int
    count: int
    by: str
    address: str | None = None
    local: tuple[int, ...] | None = None


def find(coordinator: str = "", processes: int | None = None, process_id: int | None = None,
         seconds: float = 60.0) -> Place | None:
    """This process' place, None for a job of one; the arguments are what the command line says.

    Raises:
      UserError: a description that is not whole, or one of several processes that the cluster does
        not introduce.
      Restart: the cluster did not answer within `seconds`, and may do so later.
    """
    address = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    count = processes or number("JAX_NUM_PROCESSES")
    me = process_id if process_id is not None or processes == 1 else number("JAX_PROCESS_ID")
    by = f"--processes={count}" if processes else f"JAX_NUM_PROCESSES={count}"
    launched = _launched()
    if address and not re.fullmatch(r"[^:\s]+:\d+|\[.+\]:\d+", address):
        raise UserError("not the address of process 0",
                        where="--coordinator or JAX_COORDINATOR_ADDRESS",
                        expected="MACHINE:PORT", found=address)
    if me is None and address:
        if count is None and launched:
            count, me, by = launched.count, launched.me, launched.by
        elif count:
            me = next((rank for rank in map(_digits, RANKS) if rank is not None), None)
    if count == 1:
        place = Place(me or 0, 1, by)
    elif address and count and me is not None:
        place = Place(me, count, by, address)
    else:
        place = _of_cluster(Place(-1 if me is None else me, count or 0, by, address), launched,
                            seconds)
    if not 0 <= place.me < place.count:
        raise UserError("no such process", where="--process_id or JAX_PROCESS_ID",
                        expected=f"0 to {place.count - 1}, by {place.by}", found=str(place.me))
    return place if place.count > 1 else None


def number(name: str) -> int | None:
    """Of an environment variable; None where it is empty or not there."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise UserError("not a number", where=name, found=text) from error


def _digits(name: str) -> int | None:
    """As `number`; None as well where a variable of such a name holds something else."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdigit() else None


def _launched() -> Place | None:
    """As one of several processes of a launcher that JAX does not know."""
    pairs = [(*map(_digits, pair), pair[0]) for pair in LAUNCHERS]
    pairs.append((*_hosts_of_slice(), "TPU_WORKER_HOSTNAMES"))
    return next((Place(me, count, f"{name}={os.environ.get(name)}") for count, me, name in pairs
                 if count and count > 1 and me is not None), None)


def _hosts_of_slice() -> tuple[int | None, int | None]:
    """What GKE tells pods of a TPU slice, also one that finds no TPU there (which JAX then takes
    for a job of one)."""
    hosts, me = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")), _digits("TPU_WORKER_ID")
    count, index = _digits("MEGASCALE_NUM_SLICES") or 1, _digits("MEGASCALE_SLICE_ID") or 0
    return hosts * count, None if me is None else me + index * hosts


def _of_cluster(given: Place, launched: Place | None, seconds: float) -> Place:
    """What is not `given` (me -1, count 0, address None), from the cluster that this process runs
    on."""
    for kind in clusters.ClusterEnv._cluster_types:
        if kind.opt_in_only_method:  # mpi4py
            continue
        if launched and kind.__name__ == "OmpiCluster" and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            # Open MPI 5 tells no address: JAX 0.10 does not see it, 0.11 asks mpi4py for one
            continue
        found = _ask(kind, given, seconds)
        if found and launched and kind.name == "slurm" and found.count != launched.count:
            # of mpirun's or torchrun's own processes on SLURM's nodes, the daemon that starts them
            continue
        if found:
            return found
    if given.me >= 0 or given.count or given.address:
        missing = [name for name, is_there in (
            ("--coordinator or JAX_COORDINATOR_ADDRESS", given.address),
            ("--processes or JAX_NUM_PROCESSES", given.count),
            ("--process_id or JAX_PROCESS_ID", given.me >= 0)) if not is_there]
        raise UserError("the description of the processes is not whole", where="distributed job",
                        expected=" and ".join(missing), hint="give all three, or none for a single "
                                                             "process")
    if launched:
        return launched
    if index := number(INDEX):
        raise UserError("this pod is one of several, and nothing says of how many",
                        where=f"{INDEX}={index}", expected="JAX_COORDINATOR_ADDRESS and "
                                                           "JAX_NUM_PROCESSES, or the package "
                                                           "`kubernetes`",
                        hint=ALONE)
    _remark_of_slurm()
    return Place(0, 1, "")


def _ask(kind: type[clusters.ClusterEnv], given: Place, seconds: float) -> Place | None:
    """What one kind of cluster says; None where this is none, or one that has nothing to say about
    a single process."""
    name, source = CLUSTERS.get(kind.__name__, (kind.__name__, kind.__name__))
    if kind.__name__ == "K8sCluster" and INDEX not in os.environ:
        # JAX numbers pods by it; and most service accounts may not ask, or have no token
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a Kubernetes client that is not installed
            if not kind.is_env_present():
                return None
            count = given.count or kind.get_process_count()
            by = given.by if given.count else f"{source}={count}"
            if kind.name == "slurm" and not given.count and (
                step := _digits("SLURM_STEP_NUM_TASKS")):
                # an interactive step of salloc has one task, and the SLURM_NTASKS of the whole job
                count, by = step, f"SLURM_STEP_NUM_TASKS={step}"
            if count == 1:
                _remark_of_slurm()
                return Place(0, 1, by)
            me = given.me if given.me >= 0 else kind.get_process_id()
            address = given.address or kind.get_coordinator_address(
                timeout_secs=int(seconds),
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"))
            return Place(me, count, by, address, _devices(kind))
    except UserError:
        raise
    except Exception as error:  # whatever the client of a cluster raises
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if kind.__name__ == "GceTpuCluster" and _is_elsewhere():
            return None
        if _passes(error):
            raise Restart(f"{name} did not say within {seconds:.0f} s where this job's processes "
                          f"are ({text}); "
                          f"{ALONE}, {GIVE}") from error
        if kind.__name__ == "K8sCluster" and number(INDEX) == 0:
            say(f"one process: {name} does not say whether there are others ({text}); if there "
                "are, they end with an error, and need JAX_COORDINATOR_ADDRESS and "
                "JAX_NUM_PROCESSES, or a service account that reads jobs")
            return None
        raise UserError(f"{name} does not say where this job's processes are",
                        where="cluster detection", found=text,
                        hint=f"{ALONE}, {GIVE}") from error


def _devices(kind: type[clusters.ClusterEnv]) -> tuple[int, ...] | None:
    """One a process where a machine has several; a SLURM task that has its node for itself has all
    its devices."""
    tpu = kind.__name__ in ("GkeTpuCluster", "GceTpuCluster")
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0] == "1"
    index = None if tpu or alone else kind.get_local_process_id()
    return None if index is None else (index,)


def _passes(error: BaseException) -> bool:
    """Whether the next start may find it otherwise: names and servers that do not answer yet, not
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


def _is_elsewhere() -> bool:
    """Whether this machine, which has TPUs, is none of Google's: there the metadata server always
    has an address."""
    try:
        socket.gethostbyname(os.environ.get("GCE_METADATA_IP", "metadata.google.internal"))
    except OSError:
        return True
    return False


def _remark_of_slurm() -> None:
    """Says that SLURM has room for more processes than the one that was started, by `python`
    without srun."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    if "SLURM_JOB_ID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        say(f"one process, by itself: the allocation is for {tasks} (SLURM_NTASKS={tasks}), but "
            "only this one was started here; `srun python -m ...` starts all")
