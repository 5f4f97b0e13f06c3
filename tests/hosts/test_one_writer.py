"""A workdir has one writer; see tests/storage/test_lock.py for the lock itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avjax.hosts import distributed
from avjax.hosts.ownership import sole_writer
from avjax.storage import lock
from tests.training import test_loop

ROOT = Path(__file__).parents[2]
HOLDER = (
    "import sys, pathlib\nfrom avjax.storage import lock\n"
    "with lock.hold(pathlib.Path(sys.argv[1]) / lock.NAME, 'it', 'there'):\n"
    "    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"],
        cwd=ROOT,
        text=True,
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_job_touches_nothing_and_goes_on_once_the_first_is_dead(tmp_path, holder):
    run = tmp_path / "run"
    half = run / "checkpoints" / "3.orbax-checkpoint-tmp"  # what the first one is saving
    half.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("half a li")
    with pytest.raises(
        lock.Busy,
        match=f"another job is writing the workdir {run}; "
        f"found: host .*, process {holder.pid}, since",
    ):
        test_loop.run(run)
    assert half.is_dir() and (run / "metrics.jsonl").read_text() == "half a li"
    assert {p.name for p in run.iterdir()} == {"checkpoints", "metrics.jsonl", lock.NAME}
    holder.kill()
    holder.wait()
    assert test_loop.run(run, **{"train.steps": 3}).step == 3
    assert not (run / lock.NAME).exists() and test_loop.steps(run) == [3]


def test_a_run_that_follows_another_may_be_started_again(tmp_path, monkeypatch):
    busy = lock.Busy("another job is writing")
    busy.predecessor = True

    def refuse(*args, **kwargs):
        raise busy

    monkeypatch.setattr(lock, "hold", refuse)
    with pytest.raises(distributed.Restart, match="another job is writing"), sole_writer(tmp_path):
        pass
