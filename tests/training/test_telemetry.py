"""Where the time went, how much of it counted, and who logs it."""

import errno
import hashlib
import json
import os
import sys
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer

from avjax.errors import DiskFull, UserError
from avjax.hosts import distributed
from avjax.storage import paths
from avjax.systems.api import Spec
from avjax.telemetry import goodput, profiling, report, speed, tracking
from avjax.telemetry.metrics_writer import MetricsWriter
from tests.training import toy
from tests.training.test_loop import records, run


def test_a_run_records_a_split_of_its_step_time_that_adds_up(tmp_path):
    run(tmp_path, **{"train.steps": 4, "train.log_every": 2, "train.checkpoint_every": 100})
    last = records(tmp_path, "speed")[-1]
    parts = last["data_wait_seconds"] + last["device_wait_seconds"] + last["host_seconds"]
    assert last["step"] == 4 and parts == pytest.approx(last["step_seconds"], rel=1e-6)
    rate = records(tmp_path)[-1]["steps_per_second"]
    assert last["examples_per_second"] == pytest.approx(8 * rate)
    assert last["frames_per_second"] == pytest.approx(48 * rate)
    assert 0 < last["real_frames_per_second"] < last["frames_per_second"]
    assert last["device_seconds"] > 0 and last["rss_mb"] > 10
    data = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").glob("events*"))
    assert b"speed/device_seconds" in data and b"goodput/goodput" in data


class Ready:
    """Metrics that are ready at a time of the fake clock `now`."""

    def __init__(self, now, at):
        self.now, self.at = now, at

    def block_until_ready(self):
        self.now[0] = max(self.now[0], self.at)


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(speed, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize("slow", ["device", "data"])
def test_time_split_names_the_culprit_though_nothing_waits_for_the_device(now, slow):
    """Steps of 0.2 s: the host reads the metrics of one after it has dispatched the next."""
    clock = speed.StepClock()
    first = clock.counters(0, {}, {})
    data_wait, in_flight = 0.0, None
    for step in range(10):
        if slow == "data":
            now[0] += 0.19
            data_wait += 0.19
        now[0] += 0.01  # dispatch
        if in_flight is not None:
            clock.read(lambda metrics: metrics.block_until_ready(), in_flight)
        in_flight = Ready(now, 100.0 + 0.2 * (step + 1) if slow == "device" else now[0])
    found = speed.averages(first, clock.counters(10, {"data wait": data_wait}, {}))
    waits = {"device": found["device_wait_seconds"], "data": found["data_wait_seconds"]}
    assert waits[slow] > 0.8 * found["step_seconds"] and min(waits.values()) == pytest.approx(0)
    assert found["host_seconds"] + sum(waits.values()) == pytest.approx(found["step_seconds"])


def test_device_time_runs_from_the_end_of_the_step_before(now):
    clock = speed.StepClock()
    first = clock.counters(0, {}, {})
    clock.dispatched(100.0, Ready(now, 100.2))
    clock.dispatched(100.04, Ready(now, 100.4))  # waits for the first: 0.2, not 0.36
    clock.dispatched(100.8, Ready(now, 100.88))  # after a pause of the device
    clock.close()  # all are done
    now[0] = 101.0
    last = clock.counters(3, {"data wait": 0.03, "evaluation": 0.1}, {"real_frames": 30})
    found = speed.averages(first, last)
    assert found["device_seconds"] == pytest.approx((0.2 + 0.2 + 0.08) / 3)
    assert found["step_seconds"] == pytest.approx((1 - 0.1) / 3)
    assert found["steps_per_second"] == pytest.approx(3)
    assert found["real_frames_per_second"] == pytest.approx(30)
    assert speed.averages(last, last) == {}


def test_positions_of_batches():
    system = types.SimpleNamespace(rows=None, batch_spec=toy.ToySystem().batch_spec)
    assert speed.positions(system, rows=8, time=6) == {"examples": 8, "frames": 48}
    packed = types.SimpleNamespace(rows=types.SimpleNamespace(capacity={"tokens": 10,
                                                                        "patches": 4}), batch_spec={
        "ids": Spec(("batch", 10), "int32", "", sequence=1),
        "segment": Spec(("batch", 10), "int32", "", sequence=1),
        "audio": Spec(("batch", 4, 3), "float32", "", sequence=1),
        "units": Spec(("batch", 7), "int32", "", sequence=1),
        "voice": Spec(("batch", 5), "float32", ""), "units_length": Spec(("batch",), "int32", "")})
    lengths = speed.sequences(packed, 0)
    assert lengths == {"tokens": 10, "patches": 4, "units": 7}
    assert speed.positions(packed, rows=2, time=0) == {"rows": 2, "tokens": 20, "patches": 8,
                                                            "units": 14}
    batch = {"segment": np.array([[1, 1, 2] + [0] * 7, [1] * 10]), "units_length": np.array([3, 7])}
    assert speed.real_positions(batch, lengths) == {"real_tokens": 13, "real_units": 10}


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
    assert (second["from"], second["to"], second["end"]) == (4, 8, "done")
    assert second["began"] >= first["seen"] and sum(second["seconds"].values()) <= result.seconds[
        "total"]
    [record] = records(tmp_path, "goodput")
    assert record["lost_steps"] == 3 and record["kept_steps"] == 8 and record["starts"] == 2
    assert 0 < record["goodput"] < 1
    assert record["restore_fraction"] > 0 and record["idle_fraction"] > 0
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
    assert profiler.before_step(1, state) == ""
    (requests / "profile.now").write_text("2\n")
    assert profiler.before_step(2, state) == "tracing 2 steps" and not (requests
                                                                   / "profile.now").exists()
    assert profiler.before_step(3, state) == ""
    assert "profile of 2 steps" in profiler.before_step(4, state)
    assert list((tmp_path / "out").rglob("*.xplane.pb"))
    (requests / "profile.now").touch()
    patient = profiling.Profiler(requests, tmp_path / "out", first=-1, steps=3, every=60)
    # looks once a minute
    assert patient.before_step(1, state) == "" and (requests / "profile.now").exists()
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
    assert report.slowest_data(0.1) == {}  # one process
    monkeypatch.setattr(distributed, "peers", lambda: peers)
    assert report.slowest_data(0.7) == {} and report.slowest_data(0.5) == {}
    peers.me = 0
    assert report.slowest_data(0.2) == {"slowest_data_wait_seconds": 0.5, "slowest_host": 3}
    assert report.slowest_data(0.6)["slowest_host"] == 0


def test_a_full_disk_ends_the_job_and_hangs_nothing(tmp_path, monkeypatch):
    """tensorboardX 2.6.5 alone waits for ever at the eleventh event after its thread has died."""
    failed = threading.Event()

    def fail(*args):
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = MetricsWriter(tmp_path, start=0, total=100)
    with monkeypatch.context() as patch:
        patch.setattr(record_writer.RecordWriter, "write", fail)
        writer.record(0, "train", {"loss": 1.0})
        assert failed.wait(60)
        writer._events.flush()  # the error is known once the queue has been worked off
        with pytest.raises(DiskFull, match=f"disk is full; where: {tmp_path}/tensorboard"):
            writer.record(1, "train", {"loss": 1.0})
        for step in range(20):
            writer._events.add_scalar("train/loss", 1.0, step)
    writer.close()
    writer = MetricsWriter(tmp_path, start=0, total=100)
    monkeypatch.setattr(writer, "_file", types.SimpleNamespace(write=fail, close=fail))
    with pytest.raises(DiskFull, match=f"where: {tmp_path}/metrics.jsonl"):
        writer.record(1, "train", {"loss": 1.0})
    writer.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DiskFull):
            paths.write_text(tmp_path / "config.json", "{}")
    assert not list(tmp_path.rglob("*.tmp"))
    paths.write_text(tmp_path / "config.json", "{}")
