"""Killed at every point of a run, by SIGTERM or SIGKILL, and started again: bit by bit what was
never interrupted would have made."""

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.distributed.hosts import Job
from tests.workdirs import state_at, told

STEPS = 60
SETTINGS = (f"train.steps={STEPS}", "train.checkpoint_every=4", "train.evaluate_every=6",
            "optimizer.ema_decay=0.9", "optimizer.weight_decay=0.1", "optimizer.clip_norm=0.5")
# In this order, one start each; see job.POINTS. Every start goes on from what the last one left.
POINTS = ("compile:1", "record:9", "commit:2", "restore:1", "checksums:1", "evaluate:2", "save:2",
          "goodput:3", "step:5")


def run(workdir, data, *hooks) -> tuple[int, str]:
    """(exit code, log) of one start."""
    with Job(1, workdir, data, *SETTINGS, *hooks) as job:
        [code] = job.wait()
        return code, job.log()


def kill_everywhere(workdir, data, name) -> None:
    for point in POINTS:
        code, log = run(workdir, data, f"@kill={name}:{point}")
        assert f"hook {name} at" in log, log
        assert code == (-signal.SIGKILL if name == "SIGKILL" else 75), log
    code, log = run(workdir, data)
    assert code == 0 and "resuming from step" in log, log


@pytest.mark.slow
def test_kills_at_every_point_change_no_bit(tmp_path, data):
    code, log = run(tmp_path / "whole", data)
    assert code == 0, log
    names = ("SIGKILL", "SIGTERM")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: kill_everywhere(tmp_path / name, data, name), names))
    state = state_at(tmp_path / "whole", STEPS)
    for name in names:
        for kind in ("train", "valid"):
            assert told(tmp_path / name, kind) == told(tmp_path / "whole", kind)
        found = state_at(tmp_path / name, STEPS)
        assert found.keys() == state.keys()
        for path, value in state.items():
            np.testing.assert_array_equal(found[path], value, err_msg=f"{name} {path}")
