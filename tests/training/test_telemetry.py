"""Where the time went, how much of it counted, and who is told."""

import errno
import hashlib
import json
import os
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer

from avjax.errors import DiskFull, UserError
from avjax.hosts import distributed
from avjax.storage import paths
from avjax.systems.api import Spec
from avjax.telemetry import goodput, profiling, stepclock, telemetry, throughput, tracking
from avjax.telemetry.stepclock import StepClock, split
from tests.training import toy
from tests.training.test_loop import records, run

PAUSE = 0.15  # long beside what a busy machine adds


class SlowSystem(toy.ToySystem):
    """Its device work takes PAUSE seconds longer."""

    def loss(self, params, batch, key):
        def rest(mask):
            time.sleep(PAUSE)
            return mask

        mask = jax.pure_callback(rest, jax.ShapeDtypeStruct(batch["mask"].shape, jnp.float32),
                                 batch["mask"])
        return super().loss(params, batch | {"mask": jax.lax.stop_gradient(mask)}, key)


def late(batch):
    time.sleep(PAUSE)
    return batch


@pytest.mark.parametrize("slow", ["device", "data"])
def test_time_split_names_the_culprit_though_nothing_waits_for_the_device(tmp_path, slow):
    how = dict(system=SlowSystem()) if slow == "device" else dict(spoil={k: late
                                                                         for k in range(20)})
    run(tmp_path, **how, **{"train.steps": 12, "train.log_every": 6, "train.checkpoint_every": 100})
    last = records(tmp_path, "speed")[-1]
    assert last["step"] == 12
    parts = last["data_wait_seconds"] + last["device_wait_seconds"] + last["host_seconds"]
    assert parts == pytest.approx(last["step_seconds"],
                                  rel=1e-6) and last["step_seconds"] > 0.6 * PAUSE
    # on CPU a step may be done before it counts as begun, so that nobody waits for it
    if slow == "device":
        assert last["data_wait_seconds"] < 0.2 * last["step_seconds"] and last[
            "device_seconds"] > 0.9 * PAUSE
    else:
        assert last["data_wait_seconds"] > last["device_wait_seconds"] and last[
            "device_seconds"] < last["data_wait_seconds"]
    rate = records(tmp_path)[-1]["steps_per_second"]
    assert last["examples_per_second"] == pytest.approx(8
                                                        * rate) and last[
                                                            "frames_per_second"] == pytest.approx(48
                                                                                                  * rate)
    assert 0 < last["real_frames_per_second"] < last["frames_per_second"] and last["rss_mb"] > 10
    data = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").glob("events*"))
    assert b"speed/device_seconds" in data and b"goodput/goodput" in data


def test_device_time_runs_from_the_end_of_the_step_before(monkeypatch):
    now = [100.0]

    class Ready:
        def __init__(self, at):
            self.at = at

        def block_until_ready(self):
            now[0] = self.at

    monkeypatch.setattr(stepclock, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    clock = StepClock()
    first = clock.mark(0, {}, {})
    clock.dispatched(100.0, Ready(100.2))
    clock.dispatched(100.04, Ready(100.4))  # waits for the first: 0.2, not 0.36
    clock.dispatched(100.8, Ready(100.88))  # after a pause of the device
    clock.close()  # all are done
    now[0] = 101.0
    last = clock.mark(3, {"data wait": 0.03, "evaluation": 0.1}, {"real_frames": 30})
    found = split(first, last)
    assert found["device_seconds"] == pytest.approx((0.2 + 0.2 + 0.08) / 3)
    assert found["step_seconds"] == pytest.approx((1
                                                   - 0.1) / 3) and found[
                                                       "steps_per_second"] == pytest.approx(3)
    assert found["real_frames_per_second"] == pytest.approx(30) and split(last, last) == {}


def test_positions_of_batches():
    system = types.SimpleNamespace(rows=None, batch_spec=toy.ToySystem().batch_spec)
    assert throughput.positions(system, rows=8, time=6) == {"examples": 8, "frames": 48}
    packed = types.SimpleNamespace(rows=types.SimpleNamespace(capacity={"tokens": 10,
                                                                        "patches": 4}), batch_spec={
        "ids": Spec(("batch", 10), "int32", "", sequence=1),
        "segment": Spec(("batch", 10), "int32", "", sequence=1),
        "audio": Spec(("batch", 4, 3), "float32", "", sequence=1),
        "units": Spec(("batch", 7), "int32", "", sequence=1),
        "voice": Spec(("batch", 5), "float32", ""), "units_length": Spec(("batch",), "int32", "")})
    lengths = throughput.sequences(packed, 0)
    assert lengths == {"tokens": 10, "patches": 4, "units": 7}
    assert throughput.positions(packed, rows=2, time=0) == {"rows": 2, "tokens": 20, "patches": 8,
                                                            "units": 14}
    batch = {"segment": np.array([[1, 1, 2] + [0] * 7, [1] * 10]), "units_length": np.array([3, 7])}
    assert throughput.real_positions(batch, lengths) == {"real_tokens": 13, "real_units": 10}


def start(began, seen, first, last, end="killed", **seconds):
    return {"began": began, "seen": seen, "from": first, "to": last, "end": end, "seconds": seconds}


def test_goodput_by_hand():
    # killed; its last checkpoint is of step 40
    starts = [start(0, 100, 0, 50, step=50, compile=20, checkpoint=10),
              start(130, 200, 40, 60, step=40, restore=10),  # then even that one was broken
              start(210, 300, 30, 60, "done", **{"step": 60, "data wait": 15, "hoping": 5}),
              start(9000, 9010, 60, 70, "done", step=10)]  # asked for more steps, much later
    found = goodput.summarise(starts)
    assert found.kept_steps == 70 and found.lost_steps == (50 - 30) + 20 and found.starts == 4
    want = {"kept": 30 + 0 + 60 + 10, "lost": 20 + 40, "compile": 20, "checkpoint": 10,
            "restore": 10, "data wait": 15, "idle": 30 + 10, "other": (20 + 20 + 5) + 10,
            "evaluation": 0, "start": 0}
    assert found.seconds == pytest.approx(want) and found.total == pytest.approx(300 + 10)
    assert found.goodput == pytest.approx(100 / 310)
    assert "train steps" in found.table() and "40 steps" in found.table() and found.table().index(
        "train steps") < 5
    fractions = [v for k, v in found.record().items() if k.endswith("_fraction")]
    assert sum(fractions) == pytest.approx(1, abs=1e-3)
    # two steps before the kill
    unseen = goodput.summarise([start(0, 10, 0, 3, step=6), start(20, 30, 5, 8, "done", step=9)])
    assert unseen.kept_steps == 8 and unseen.lost_steps == 0
    assert goodput.summarise([]).goodput == 0 and goodput.summarise([]).table() == ""


class Crash(Exception):
    pass


def test_goodput_over_a_crash_and_a_restart(tmp_path, capfd):
    def crash(batch):
        raise Crash

    settings = {"train.checkpoint_every": 4, "train.steps": 8}
    with pytest.raises(Crash):
        run(tmp_path, spoil={7: crash}, **settings)
    [entry] = goodput.read(tmp_path)
    assert (entry["from"], entry["to"], entry["end"]) == (0, 7, "failed")
    result = run(tmp_path, **settings)
    first, second = goodput.read(tmp_path)
    assert (second["from"], second["to"], second["end"]) == (4, 8,
                                                             "done") and second["began"] >= first[
                                                                 "seen"]
    assert second["seen"] - second["began"] == pytest.approx(result.seconds["total"], abs=2)
    [record] = records(tmp_path, "goodput")
    assert record["lost_steps"] == 3 and record["kept_steps"] == 8 and record["starts"] == 2
    assert 0 < record["goodput"] < 1 and record["restore_fraction"] > 0 and record[
        "idle_fraction"] > 0
    said = capfd.readouterr().err
    for words in ("trained to step 8 in", "train steps", "compiling", "steps done again",
                  "between starts", "2 starts", "a step ", "examples/s", "frames/s", "MFU",
                  "host memory"):
        assert words in said, words
    # torn: counted anew, never in the way
    (tmp_path / "goodput.json").write_text('{"starts": [{"began"')
    run(tmp_path, **settings | {"train.steps": 9})
    assert len(goodput.read(tmp_path)) == 1


def test_profile_on_request_and_requests_that_are_none(tmp_path):
    requests, state = tmp_path / "run", jnp.zeros(2)
    requests.mkdir()
    profiler = profiling.Profiler(requests, tmp_path / "out", first=-1, steps=3, every=0)
    assert profiler.before(1, state) == ""
    (requests / "profile.now").write_text("2\n")
    assert profiler.before(2, state) == "tracing 2 steps" and not (requests
                                                                   / "profile.now").exists()
    assert profiler.before(3, state) == "" and "profile of 2 steps" in profiler.before(4, state)
    assert list((tmp_path / "out").rglob("*.xplane.pb"))
    (requests / "profile.now").touch()
    patient = profiling.Profiler(requests, tmp_path / "out", first=-1, steps=3, every=60)
    # looks once a minute
    assert patient.before(1, state) == "" and (requests / "profile.now").exists()
    profiler.close()


class FakeRun(list):
    def __init__(self):
        self.metrics, self.finished = [], False

    def define_metric(self, name, **how):
        self.metrics.append((name, how))

    def log(self, values):
        self.append(values)

    def finish(self):
        self.finished = True


def test_wandb_gets_the_scalars_and_the_same_run_when_a_workdir_goes_on(tmp_path, monkeypatch):
    fake, inits = FakeRun(), []
    monkeypatch.setitem(sys.modules, "wandb",
                        types.SimpleNamespace(init=lambda **how: (inits.append(how), fake)[1]))
    for steps in (2, 3):
        run(tmp_path / "job", **{"train.steps": steps, "train.wandb": "faces"})
    assert [i["project"] for i in inits] == ["faces", "faces"] and inits[0]["id"] == inits[1]["id"]
    assert inits[0]["resume"] == "allow" and inits[0]["config"]["train"][
        "wandb"] == "faces" and inits[0]["name"] == "job"
    losses = [v for v in fake if "train/loss" in v]
    assert [v["step"] for v in losses] == [1, 2, 3] and ("*",
                                                         {"step_metric":
                                                          "step"}) in fake.metrics and fake.finished
    assert losses[0]["train/loss"] == records(tmp_path / "job")[0]["loss"]


def test_a_run_s_id_belongs_to_its_workdir_not_to_the_path(tmp_path):
    ids = []
    for name in ("job", "job", "moved", "job"):
        if name == "moved":
            (tmp_path / "job").rename(tmp_path / "moved")
        (tmp_path / name).mkdir(exist_ok=True)
        ids.append(tracking.run_id(tmp_path / name))
    assert ids[0] == ids[1] == ids[2] != ids[3]
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "metrics.jsonl").touch()
    assert tracking.run_id(tmp_path
                           / "older") == hashlib.sha256(str(tmp_path
                                                            / "older").encode()).hexdigest()[:16]


def test_wandb_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"not installed.*config.train.wandb='faces'.*pip install "
                                        r"avjax\[wandb\]"):
        run(tmp_path, **{"train.wandb": "faces"})


def test_the_host_with_late_data_is_named(monkeypatch):
    store = {}
    client = types.SimpleNamespace(key_value_set=lambda key, value,
                                   allow_overwrite: store.__setitem__(key, json.loads(value)))
    peers = types.SimpleNamespace(me=3, prefix="avjax", client=client,
                                  list=lambda key: {k.rsplit("/", 1)[1]: v for k,
                                                    v in store.items()})
    assert telemetry.slowest_data(0.1) == {}  # one process
    monkeypatch.setattr(distributed, "peers", lambda: peers)
    assert telemetry.slowest_data(0.7) == {} and telemetry.slowest_data(0.5) == {}
    peers.me = 0
    assert telemetry.slowest_data(0.2) == {"slowest_data_wait_seconds": 0.5, "slowest_host": 3}
    assert telemetry.slowest_data(0.6)["slowest_host"] == 0


def test_a_full_disk_ends_the_job_and_hangs_nothing(tmp_path, monkeypatch):
    """tensorboardX 2.6.5 alone waits for ever at the eleventh event after its thread has died."""
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = telemetry.Telemetry(tmp_path, start=0, total=100)
    with monkeypatch.context() as patch, pytest.raises(DiskFull,
                                                       match="disk is full; where: "
                                                       f"{tmp_path}/tensorboard"):
        patch.setattr(record_writer.RecordWriter, "write", fail)
        for step in range(100):
            told.record(step, "train", {"loss": 1.0})
            time.sleep(0.001)
    told.close()
    told = telemetry.Telemetry(tmp_path, start=0, total=100)
    monkeypatch.setattr(told, "_file", types.SimpleNamespace(write=fail, close=fail))
    with pytest.raises(DiskFull, match=f"where: {tmp_path}/metrics.jsonl"):
        told.record(1, "train", {"loss": 1.0})
    told.close()
    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(os, "replace", fail)
        paths.write_text(tmp_path / "config.json", "{}")
    assert not list(tmp_path.rglob("*.tmp"))
    paths.write_text(tmp_path / "config.json", "{}")
