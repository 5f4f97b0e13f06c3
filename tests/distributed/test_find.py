"""How a process learns which of how many it is, from flags, environment and clusters."""

import pytest
from jax._src.clusters import cloud_tpu_cluster

from avjax.errors import UserError
from avjax.training import distributed

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "SLURM_JOB_ID", "SLURM_PROCID",
         "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_RANK",
         "OMPI_MCA_orte_hnp_uri", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "TPU_PROCESS_ADDRESSES",
         "MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "KUBERNETES_SERVICE_HOST")
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
        return distributed._find(coordinator, processes, process_id, 5)

    return find


def test_nothing_is_a_job_of_one(found):
    assert found() is None and distributed.find() == (0, 1)
    assert found({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}) is None  # an sbatch script without srun
    assert not distributed.initialize("a:1", 1, 0) and distributed.is_main() and distributed.process_count() == 1


def test_flags_go_before_the_environment(found):
    assert found(JAX) == ("a:1234", 4, 3, None) and distributed.find() == (3, 4)
    assert found(JAX, "b:1", 2, 0) == ("b:1", 2, 0, None)


def test_kubernetes_gives_the_rank_of_an_indexed_job(found):
    assert found(JAX | {"JAX_PROCESS_ID": "", "JOB_COMPLETION_INDEX": "2"}) == ("a:1234", 4, 2, None)


def test_slurm(found):
    assert found(SLURM) == ("node03:61441", 8, 5, [1])  # JAX's port for this job; one device a task
    assert found(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"})[3] is None  # a task a node: all its devices


@pytest.mark.parametrize("slices, expected", [({}, (2, 1)), ({"MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1:80",
                                              "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, (4, 3))])
def test_tpu_slices_on_gke(found, monkeypatch, slices, expected):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    assert found(GKE | slices)[:3] == ("127.0.0.1:8482", *expected)


def test_half_a_description_is_refused(found):
    with pytest.raises(UserError, match="--processes or JAX_NUM_PROCESSES and --process_id or JAX_PROCESS_ID"):
        found(coordinator="a:1")
    with pytest.raises(UserError, match="expected: 0 to 3; found: 4"):
        found(JAX, process_id=4)
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES; found: many"):
        found(JAX | {"JAX_NUM_PROCESSES": "many"})
