"""Killed at random moments, by SIGTERM or SIGKILL, and started again: bit by bit what was never
interrupted would have made."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.hosts import Job, steps
from tests.workdirs import records, state_at, told

LONG = os.environ.get("AVJAX_LONG") == "1"
JOBS, KILLS = (25 if LONG else 5), 5  # each job is killed so many times
STEPS = 30
SETTINGS = (f"train.steps={STEPS}", "train.checkpoint_every=4", "train.evaluate_every=6",
            "optimizer.ema_decay=0.9", "optimizer.weight_decay=0.1", "optimizer.clip_norm=0.5",
            "@data=0.03")


def attempt(workdir: Path, data: str, how: int = 0, *, after: float = 0.0,
            step: int = 0) -> tuple[int, float]:
    """(exit code, seconds) of one start. how: the signal that comes `after` seconds past the start,
    or past `step`."""
    began = time.monotonic()
    with Job(1, workdir, data, *SETTINGS) as job:
        while how and len(records(workdir)) < step and job.processes[0].poll() is None:
            time.sleep(0.003)
        time.sleep(after)
        if how:
            job.kill(how)
        [code] = job.wait()
        # SIGTERM before the launcher takes signals has its usual effect
        assert code in ((0, 75, -signal.SIGTERM, -signal.SIGKILL) if how else (0,)), job.logs()
    return code, time.monotonic() - began


@pytest.mark.slow
def test_twenty_random_kills_change_no_bit(tmp_path, data):
    whole = tmp_path / "whole"
    attempt(whole, data)  # compiles
    _, seconds = attempt(tmp_path / "timed", data)
    counted = {signal.SIGTERM: 0, signal.SIGKILL: 0}

    def one(seed):
        rng, workdir, reached = random.Random(seed), tmp_path / f"job{seed}", []
        for number in range(KILLS):
            how = (signal.SIGTERM, signal.SIGKILL)[(seed + number // 2) % 2]
            if number % 2:  # anywhere in start-up, mostly
                code, _ = attempt(workdir, data, how, after=rng.uniform(0.02, 0.8) * seconds)
            else:  # some steps further on
                code, _ = attempt(workdir, data, how, after=rng.uniform(0, 0.1),
                                  step=len(records(workdir)) + rng.randint(1, 9))
            counted[how] += bool(code)
            reached.append(max(steps(workdir), default=0))
        attempt(workdir, data)
        return reached

    with ThreadPoolExecutor(2) as pool:
        reached = list(pool.map(one, range(JOBS)))
    print(f"{JOBS * KILLS} kills, {counted}; newest checkpoint after each: {reached}; a whole run "
          f"takes {seconds:.1f} s")
    assert min(counted.values()) >= JOBS and sum(counted.values()) >= 4 * JOBS, (counted, reached)
    state = state_at(whole, STEPS)
    for seed in range(JOBS):
        workdir = tmp_path / f"job{seed}"
        assert told(workdir, "train") == told(whole,
                                              "train") and told(workdir,
                                                                "valid") == told(whole, "valid")
        found = state_at(workdir, STEPS)
        assert found.keys() == state.keys()
        for name, value in state.items():
            np.testing.assert_array_equal(found[name], value, err_msg=f"{seed} {name}")
