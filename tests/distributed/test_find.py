"""How a process learns which of how many it is, from flags, environment and clusters."""

import socket
import sys
import types

import pytest
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

from avjax.errors import UserError
from avjax.hosts import cluster, distributed, rollcall
from data_pipelines.store.merge import Part
from launch import workers

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX",
         "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_LOCALID",
         "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NUM_TASKS",
         "OMPI_MCA_orte_hnp_uri", *sum(cluster.LAUNCHERS, ()),
         "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "TPU_PROCESS_ADDRESSES",
         "MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID",
         "KUBERNETES_SERVICE_HOST")
JAX = {"JAX_COORDINATOR_ADDRESS": "a:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {"SLURM_JOB_ID": "4097", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
         "SLURM_STEP_NODELIST": "node[03-06]", "SLURM_STEP_TASKS_PER_NODE": "2(x4)"}
GKE = {"TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.2", "TPU_WORKER_ID": "1"}


@pytest.fixture
def found(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def find(env=(), coordinator="", processes=None, process_id=None):
        for name, value in dict(env).items():
            monkeypatch.setenv(name, value)
        place = cluster.find(coordinator, processes, process_id, 5)
        return place and (place.address, place.count, place.me, place.local)

    return find


def test_nothing_is_a_job_of_one(found):
    assert found() is None and distributed.find() == (0, 1)
    assert not distributed.initialize("a:1", 1, 0)
    assert distributed.is_main()
    assert distributed.process_count() == 1
    assert not distributed.initialize("", 1)


def test_flags_go_before_the_environment(found):
    assert found(JAX) == ("a:1234", 4, 3, None) and distributed.find() == (3, 4)
    assert found(JAX, "b:1", 2, 0) == ("b:1", 2, 0, None)
    assert found(JAX, processes=1) is None


def test_kubernetes_gives_the_rank_of_an_indexed_job(found):
    assert found(JAX | {"JAX_PROCESS_ID": "",
                        "JOB_COMPLETION_INDEX": "2"}) == ("a:1234", 4, 2, None)


def test_slurm(found):
    # JAX's port for this job; one device a task
    assert found(SLURM) == ("node03:61441", 8, 5, (1,))
    # a task a node: all its devices
    assert found(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"})[3] is None


@pytest.mark.parametrize("env", [
    # an sbatch script without srun
    {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")},
    SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}])  # salloc's interactive step
def test_one_process_in_an_allocation_of_several_tasks_says_so(found, env, capsys):
    assert found(env) is None
    shown = capsys.readouterr().err
    assert "the allocation is for 8 (SLURM_NTASKS=8), but only this one was started" in shown
    assert found(env, processes=1) is None and "allocation" not in capsys.readouterr().err


@pytest.mark.parametrize("count, rank",
                         [*cluster.LAUNCHERS, ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")])
def test_processes_of_other_launchers_do_not_each_do_everything(found, count, rank):
    """Open MPI 5, MPICH, torchrun, a TPU slice's pod that sees no TPU: JAX detects nothing."""
    value = "a,b,c" if count.startswith("TPU") else "3"
    assert found({count: value, rank: "2"}) == (None, 3, 2, None) and distributed.find() == (2, 3)
    with pytest.raises(UserError, match=f"they meet; where: {count}={value}; found: process 2 of "
                                        "3; .*--coordinator"):
        distributed.initialize()
    if not count.startswith("TPU"):  # whose names JAX reads where there is a TPU
        assert found(coordinator="a:1") == ("a:1", 3, 2, None)
    assert found(processes=1) is None
    assert found({rank: "of another program"}) is None


def test_mpirun_on_slurms_nodes_is_mpiruns(found):
    """On all nodes but the first, its processes are children of a SLURM task a node."""
    assert found(SLURM | {"OMPI_COMM_WORLD_SIZE": "16",
                          "OMPI_COMM_WORLD_RANK": "9"}) == (None, 16, 9, None)
    assert found(SLURM | {"OMPI_COMM_WORLD_SIZE": "8",
                          "OMPI_COMM_WORLD_RANK": "5"})[0] == "node03:61441"


class Refused(Exception):
    """As a Kubernetes client's ApiException."""

    def __init__(self, status):
        super().__init__(f"({status})")
        self.status, self.reason = status, "no reason"


def kubernetes(monkeypatch, error):
    """A pod with the package `kubernetes`, whose API refuses; without a token, its config does."""
    def fail(*args, **kwargs):
        raise error

    api = types.SimpleNamespace(list_namespaced_pod=fail, read_namespaced_job=fail,
                                list_namespaced_service=fail)
    client = types.SimpleNamespace(CoreV1Api=lambda: api, BatchV1Api=lambda: api,
                                   exceptions=types.SimpleNamespace(ApiException=Refused))
    load = (lambda: None) if isinstance(error, Refused) else fail
    module = types.SimpleNamespace(client=client,
                                   config=types.SimpleNamespace(load_incluster_config=load))
    monkeypatch.setitem(sys.modules, "kubernetes", module)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", "localhost")
    for name in ("_pod", "_job", "_namespace"):
        getattr(clusters.K8sCluster, name).cache_clear()
    monkeypatch.setattr(clusters.K8sCluster, "_namespace", lambda: "default")


@pytest.mark.parametrize("error", [Refused(403), Refused(401), RuntimeError("no token file")],
                         ids=str)
def test_a_pod_of_one_process_needs_no_account(found, monkeypatch, capsys, error):
    kubernetes(monkeypatch, error)
    assert found() is None and found(processes=1) is None and not capsys.readouterr().err
    # others, if there are any, end with an error:
    assert found({"JOB_COMPLETION_INDEX": "0"}) is None
    assert "Kubernetes does not say whether there are others" in capsys.readouterr().err
    with pytest.raises(UserError, match="Kubernetes does not say where.*hint: --processes=1"):
        found({"JOB_COMPLETION_INDEX": "1"})
    assert found(processes=1) is None


def test_a_pod_whose_cluster_does_not_answer_yet_tries_again(found, monkeypatch):
    kubernetes(monkeypatch, Refused(503))
    with pytest.raises(distributed.Restart, match="Kubernetes did not say within 5 s.*503"):
        found({"JOB_COMPLETION_INDEX": "0"})
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # not installed
    assert found() is None
    with pytest.raises(UserError, match="nothing says of how many; where: JOB_COMPLETION_INDEX=2"):
        found({"JOB_COMPLETION_INDEX": "2"})


def test_who_came(monkeypatch):
    """Of four expected, one besides the coordinator, whose own connection does not count."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        place = cluster.Place(0, 4, "SLURM_NTASKS=4", f"127.0.0.1:{port}")
        with socket.create_connection(("127.0.0.1", port)):
            text = rollcall.describe(place, "after 5 s")
            assert "process 0 of 4 expected (SLURM_NTASKS=4), after 5 s: besides this one came " \
                "nobody" in text
            with socket.create_connection(("127.0.0.1", port)):
                text = rollcall.describe(place, "after 5 s")
                assert "besides this one came 1 from 127.0.0.1" in text
        other = cluster.Place(2, 4, "SLURM_NTASKS=4", place.address)
        assert "others are missing" in rollcall.describe(other, "after 5 s")
    assert "nothing answers at" in rollcall.describe(other, "after 5 s")


def test_the_wait_for_the_others_ends_in_one_line(monkeypatch, capsys):
    """Not in the abort of JAX's client."""
    ended = []
    monkeypatch.setattr(rollcall, "exit_now", ended.append)
    monkeypatch.setattr(rollcall, "connected", lambda port: {})
    seconds = []

    def connect(*args, initialization_timeout, **kwargs):
        seconds.append(initialization_timeout)
        while not ended:
            pass
        raise KeyboardInterrupt  # where the process would be gone

    monkeypatch.setattr("jax.distributed.initialize", connect)
    monkeypatch.setattr(distributed, "restartable_abort", lambda code: None)
    with pytest.raises(KeyboardInterrupt):
        distributed.initialize("localhost:1", 2, 0, start_seconds=0.1)
    assert ended == [75] and seconds[0] >= 30
    shown = capsys.readouterr().err
    assert "restartable: process 0 of 2 expected (--processes=2), after 0 s: " in shown


def test_a_part_whose_others_never_come_is_not_done(found, monkeypatch, tmp_path, capsys):
    """One process that SLURM takes for one of eight makes an eighth: exit code 75, and who was
    expected by what."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(workers.SPREAD, raising=False)
    monkeypatch.setattr(workers, "TOGETHER", 0.0)
    part = Part(tmp_path / "out", 5, 8)
    for k in range(6):
        (tmp_path / ".out.partial" / f"part-{k:05d}-of-00008").mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        workers.end(part, None)
    assert end.value.code == 75
    shown = capsys.readouterr().err
    assert "8 processes are expected (SLURM_NTASKS=8), and nobody has begun part 6, 7" in shown
    workers.end(part, "5/8")  # by hand: in any order, at any time
    (tmp_path / "out").mkdir()
    workers.end(part, None)


@pytest.mark.parametrize("slices, expected",
                         [({}, (2, 1)), ({"MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1:80",
                          "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, (4, 3))])
def test_tpu_slices_on_gke(found, monkeypatch, slices, expected):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    assert found(GKE | slices)[:3] == ("127.0.0.1:8482", *expected)


def test_half_a_description_is_refused(found):
    with pytest.raises(UserError, match="--processes or JAX_NUM_PROCESSES and --process_id or "
                                        "JAX_PROCESS_ID"):
        found(coordinator="a:1")
    with pytest.raises(UserError, match="expected: 0 to 3, by JAX_NUM_PROCESSES=4; found: 4"):
        found(JAX, process_id=4)
    with pytest.raises(UserError, match="MACHINE:PORT; found: node03"):
        found(JAX, coordinator="node03")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES; found: many"):
        found(JAX | {"JAX_NUM_PROCESSES": "many"})
