"""Saves that fail, hang or repeat: a clear end in bounded time, the last checkpoint whole, memory
that does not grow."""

import shutil
import subprocess
import threading
import time

import jax
import pytest
from orbax.checkpoint._src.checkpointers import async_checkpointer

from avjax.checkpoint import checkpoints
from avjax.errors import UserError
from avjax.hosts.peers import Restart
from avjax.hosts.watchdog import rss_bytes
from avjax.sharding.mesh import make_mesh
from avjax.training import loop
from tests.distributed.hosts import Job
from tests.training import toy
from tests.workdirs import records, steps

COMMIT = "_background_wait_for_commit_futures"  # what Orbax's saving thread runs


class Paced(toy.ToyLoader):
    def __next__(self):
        time.sleep(0.01)
        return super().__next__()


def run(workdir, *, width=8, **overrides):
    return loop.train(toy.config(**overrides), toy.ToySystem(width=width), workdir,
                      lambda: Paced(8), (), {},
                      make_mesh(dict(data=1), jax.devices()[:1]))


def test_a_full_disk_on_one_host_ends_all_and_leaves_the_last_checkpoint_whole(tmp_path, data):
    settings = ("train.steps=9", "train.checkpoint_every=3", "@width=4096",
                "train.save_timeout=400")
    with Job(2, tmp_path, data, *settings, "mesh.fsdp=2", "@full=4:1") as run:
        began = time.monotonic()
        run.ends(2, 2)
        assert time.monotonic() - began < 300  # nobody waited for that save to be whole
    for word in ("saving a checkpoint failed", "step 6", "File too large",
                 "last whole checkpoint: step 3"):
        assert word in run.log(1), run.log(1)
    assert "ended the job: saving a checkpoint failed" in run.log(0)
    assert steps(tmp_path) == [3]
    with Job(1, tmp_path, data, *settings) as run:  # there is room again
        run.ends()
    assert "resuming from step 3" in run.log() and steps(tmp_path)[-1] == 9


def test_a_checkpoint_that_one_host_cannot_read_is_set_aside_alone(tmp_path, data):
    settings = ("train.checkpoint_every=3", "train.evaluate_every=0", "mesh.fsdp=2", "@width=512")
    with Job(2, tmp_path, data, "train.steps=6", *settings) as run:
        run.ends()
    newest = tmp_path / "checkpoints" / "6"
    (newest / "checksums.json").unlink()  # which would tell host 0
    for file in (newest / "state" / "ocdbt.process_1" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with Job(2, tmp_path, data, "train.steps=6", *settings) as run:
        run.ends()
    assert "checkpoint 6 is broken" in run.log() and "resuming from step 3" in run.log()
    assert steps(tmp_path) == [3,
                               6] and [p.name
                                       for p in (tmp_path
                                                 / "checkpoints_broken").iterdir()] == ["6"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)],
                      capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# Of TensorStore: of writes that are still under way when another has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_while_saving_is_a_clear_error(small_disk, monkeypatch):
    usage = shutil.disk_usage
    settings = {"train.steps": 3, "train.checkpoint_every": 3}
    run(small_disk, width=8192, **settings)  # a state of 1.7 MB
    # what another job wrote
    (small_disk / "other").write_bytes(bytes(usage(small_disk).free - 600_000))
    with pytest.raises(UserError, match="not enough disk space for a checkpoint.*last whole "
                                        "checkpoint: step 3"):
        run(small_disk, width=8192, **settings | {"train.steps": 6})
    # quotas do not show
    monkeypatch.setattr(checkpoints.shutil, "disk_usage",
                        lambda path: type("Quota", (), {"free": 10**9}))
    with pytest.raises(UserError, match="saving a checkpoint failed.*step 6.*last whole "
                                        "checkpoint: step 3"):
        run(small_disk, width=8192, **settings | {"train.steps": 6})
    assert steps(small_disk) == [3]
    (small_disk / "other").unlink()
    assert run(small_disk, width=8192, **settings | {"train.steps": 6}).step == 6


def test_a_save_that_fails_in_the_background_is_noticed_within_steps(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    run(tmp_path, **{"train.steps": 3})
    monkeypatch.setattr(async_checkpointer, COMMIT, fail)
    with pytest.raises(UserError, match="saving a checkpoint failed.*step 6; found: OSError.*No "
                                        "space.*checkpoint: step 3"):
        run(tmp_path, **{"train.steps": 100000, "train.checkpoint_every": 6})
    assert max(r["step"] for r in records(tmp_path)) < 60 and steps(tmp_path) == [3]


def test_a_save_that_hangs_is_given_up_at_its_deadline(tmp_path, monkeypatch):
    released, commit, save = threading.Event(), getattr(async_checkpointer,
                                                        COMMIT), checkpoints.Checkpoints.save

    def impatient(self, step, *args, **kwargs):
        if step == 6:
            self.wait()  # the one before has all its time
        self.save_seconds = 500.0 if step < 6 else 1.0
        save(self, step, *args, **kwargs)

    def hang(directory, *args, **kwargs):
        if directory.name == "6":
            released.wait(60)
        commit(directory, *args, **kwargs)

    monkeypatch.setattr(async_checkpointer, COMMIT, hang)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", impatient)
    try:
        with pytest.raises(Restart, match="saving step 6.*config.train.save_timeout.*last whole "
                                          "checkpoint: step 3") as ended:
            run(tmp_path, **{"train.steps": 100000})
        assert ended.value.code == 75 and steps(tmp_path) == [3]
    finally:
        released.set()


def test_saves_hold_one_copy_of_the_state_in_host_memory_and_do_not_add_up(tmp_path):
    seen = []

    class Watch(Paced):
        def __next__(self):
            seen.append(rss_bytes())
            return super().__next__()

    settings = {"train.steps": 80, "train.checkpoint_every": 2, "train.keep_last": 1,
                "train.log_every": 20}
    state = loop.train(toy.config(**settings), toy.ToySystem(width=50_000), tmp_path,
                       lambda: Watch(8), (), {},
                       make_mesh(dict(data=1), jax.devices()[:1])).state
    size = checkpoints.host_bytes(state)
    assert size == sum(x.nbytes for x in jax.tree.leaves(state)) > 9e6
    told = records(tmp_path, "checkpoint")
    assert len(told) == 40 and all(r["host_mb"] == pytest.approx(size / 1e6, abs=0.01)
                                   for r in told)
    settled = max(seen[10:40])  # after five to twenty saves
    # 20 saves more; allocators' noise is up to 7
    assert max(seen[40:]) - settled < 12 * size, [round(x / 1e6) for x in seen]


def test_bytes_of_a_save_are_counted_once_however_often_they_are_replicated():
    mesh = make_mesh(dict(data=4, fsdp=2))
    x = jax.device_put(jax.numpy.zeros((8, 4)), jax.NamedSharding(mesh, jax.P("fsdp")))
    assert checkpoints.host_bytes({"x": x,
                                   "y": jax.device_put(x,
                                                       jax.NamedSharding(mesh,
                                                                         jax.P(
                                                                             )))}) == 2 * 8 * 4 * 4
