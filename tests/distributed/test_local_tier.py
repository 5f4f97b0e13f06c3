"""Saves to the hosts' own disks (avjax.checkpoint.tiers) of four hosts in two replicas, one killed,
disks lost."""

import shutil
import signal

import pytest

from tests.distributed.hosts import Job, losses
from tests.workdirs import records, steps

SETTINGS = ("train.steps=16", "mesh.data=2", "mesh.fsdp=2", "train.checkpoint_every=7",
            "train.local_every=2", "train.heartbeat_timeout=10", "train.barrier_timeout=300",
            "optimizer.ema_decay=0.9", "train.evaluate_every=0")


def notes(workdir):
    return " | ".join(r["text"] for r in records(workdir, "note"))


@pytest.mark.slow
def test_killed_host_and_lost_disks(tmp_path, data):
    killed = tmp_path / "killed"

    def job(workdir, *more):
        return Job(4, workdir, data, *SETTINGS,
                   f"train.local_dir={tmp_path / 'ssd' / workdir.name}", *more)

    with job(killed, "@data=0.1", "train.heartbeat_timeout=6") as run:
        run.until(lambda: len(losses(killed)) >= 11)
        run.kill(signal.SIGKILL, host=3)
        codes = run.wait()
    assert codes[3] == -signal.SIGKILL and codes[0] == codes[1] == codes[2] == 75, run.logs()
    assert steps(killed) == [7] and len(losses(killed)) < 16

    [disks] = (tmp_path / "ssd" / "killed").iterdir()
    for name, lost in (("one replica each", (0, 3)), ("both of a piece", (1, 3))):
        workdir = tmp_path / name
        shutil.copytree(killed, workdir)
        shutil.copytree(disks, tmp_path / "ssd" / name / disks.name)
        for host in lost:
            shutil.rmtree(tmp_path / "ssd" / name / disks.name / f"host_{host:04d}")
    # the two have moved; a copy beside the original is another job
    killed.rename(tmp_path / "gone")
    with job(tmp_path / "one replica each") as recovered, job(tmp_path
                                                              / "both of a piece") as fallen_back:
        recovered.ends()
        fallen_back.ends()
    said = notes(tmp_path / "one replica each")
    assert "is from the hosts' own disks; host 0" in said and "got them from replicas" in said
    assert any(f"resuming from step {step}" in said for step in (8, 10)), said
    assert "resuming from step 7" in notes(tmp_path / "both of a piece")
    # from different steps, by different ways: the same bits
    assert losses(tmp_path / "one replica each") == losses(tmp_path / "both of a piece")
    assert [step for step, _ in losses(tmp_path / "both of a piece")] == list(range(1, 17))
