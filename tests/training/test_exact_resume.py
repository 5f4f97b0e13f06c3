"""2N steps against N, kill -9 between two saves, and the rest: parameters, optimiser, average,
losses and batch ids."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workdirs import records, state_at, told

JOB = Path(__file__).with_name("run_job.py")
STEPS = 16
FAST = "--xla_backend_optimization_level=0"  # to compile


def start(workdir, system, devices, mesh, *more):
    command = [sys.executable, str(JOB), str(workdir), system, str(devices), mesh, str(STEPS),
               *map(str, more)]
    # They share the session's compilation cache: code from the cache has to give the same bits too.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
                                              f"{FAST}".strip()})


def finish(process):
    _, errors = process.communicate(timeout=550)
    assert process.returncode == 0, errors[-3000:]
    return errors


def run_killed(workdir, system, devices, mesh, *, step):
    """Kills a job after the record of `step`, then lets it finish."""
    process = start(workdir, system, devices, mesh, step)
    _, errors = process.communicate(timeout=550)
    assert process.returncode == -signal.SIGKILL, errors[-3000:]
    assert [r["step"] for r in records(workdir)] == list(range(1, step + 1))
    return finish(start(workdir, system, devices, mesh))


def assert_bitwise(a, b):
    assert told(a) == told(b)
    assert [r["step"] for r in told(a)] == list(range(1, STEPS + 1))
    assert records(a, "valid") == records(b, "valid")
    one, other = state_at(a, STEPS), state_at(b, STEPS)
    assert one.keys() == other.keys()
    assert {name.split("/")[0] for name in one} == {"step", "params", "opt_state", "ema"}
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """workdir of an uninterrupted run of a tiny AV-Flow on 8 devices, with all its checkpoints."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(start(workdir, "avflow", 8, "data=2,fsdp=2,tensor=2"))
    return workdir


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run_bitwise_on_one_device(tmp_path):
    process = start(tmp_path / "whole", "toy", 1, "data=1")
    log = run_killed(tmp_path / "killed", "toy", 1, "data=1", step=10)
    finish(process)
    assert "resuming from step" in log
    assert_bitwise(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_killed_avflow_equals_uninterrupted_avflow_bitwise_on_eight_devices(tmp_path, whole):
    log = run_killed(tmp_path / "killed", "avflow", 8, "data=2,fsdp=2,tensor=2", step=13)
    assert "resuming from step" in log
    assert_bitwise(whole, tmp_path / "killed")


@pytest.mark.slow
def test_another_mesh_sees_the_same_batches_and_nearly_the_same_losses(tmp_path, whole):
    shutil.copytree(whole / "checkpoints" / "8", tmp_path / "checkpoints" / "8")
    shutil.copy(whole / "metrics.jsonl", tmp_path)
    log = finish(start(tmp_path, "avflow", 4, "data=1,fsdp=4"))
    assert "resuming from step 8" in log
    one, other = told(whole), told(tmp_path)
    assert [r["batch_id"] for r in one] == [r["batch_id"] for r in other]
    assert len({r["batch_id"] for r in one}) == STEPS
    assert one[8:] != other[
        8:], "another mesh rounds differently; equality would mean it was not used"
    np.testing.assert_allclose([r["loss"] for r in one], [r["loss"] for r in other], rtol=1e-6)
