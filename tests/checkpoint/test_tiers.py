"""The local tier in one process; tests/distributed/test_local_tier.py has several hosts."""

import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from avjax.checkpoint import checkpoints
from avjax.checkpoint.replicas import recoverable, restore_from_replicas
from avjax.errors import UserError
from avjax.sharding.mesh import make_mesh
from tests.checkpoint.test_checkpoints import damage
from tests.training.test_loop import assert_same, one_device, run
from tests.workdirs import records, steps

EVERY = {"train.checkpoint_every": 6, "train.steps": 12, "train.local_every": 2}


class Crash(Exception):
    pass


def crash(batch):
    raise Crash


def two_tiers(tmp_path, **overrides):
    return {"train.local_dir": str(tmp_path / "ssd")} | EVERY | overrides


def local(tmp_path):
    [folder] = (tmp_path / "ssd").glob("*/host_0000/checkpoints")
    return folder


def notes(workdir):
    return " | ".join(r["text"] for r in records(workdir, "note"))


def crashed(tmp_path, at: int = 11, **overrides):
    """A job that ended like a kill before its step at + 1 and saved nothing more."""
    with pytest.raises(Crash):
        run(tmp_path / "a", spoil={at: crash}, **two_tiers(tmp_path, **overrides))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), **EVERY).state


def test_restart_takes_the_newer_local_step_and_loses_nothing(tmp_path, whole):
    crashed(tmp_path)
    assert steps(tmp_path / "a") == [6] and sorted(p.name
                                                   for p in local(tmp_path).iterdir()) == ["10",
                                                                                           "4", "8"]
    # 6 is persistent
    assert {r["step"] for r in records(tmp_path / "a", "local_checkpoint")} == {2, 4, 8, 10}
    (local(tmp_path) / "11.orbax-checkpoint-tmp").mkdir()  # a kill in the middle of the next one
    resumed = run(tmp_path / "a", **two_tiers(tmp_path))
    said = notes(tmp_path / "a")
    assert "step 10 is from the hosts' own disks" in said and "resuming from step 10" in said
    assert_same(whole, resumed.state)
    assert [r["step"]
            for r in records(tmp_path / "a")] == list(range(1,
                                                            13)) and steps(tmp_path / "a") == [6,
                                                                                               12]
    assert sorted(p.name for p in local(tmp_path).iterdir()) == ["10", "4", "8"]
    run(tmp_path / "a", **two_tiers(tmp_path, **{"train.steps": 13}))
    assert "resuming from step 12" in notes(tmp_path / "a")  # the persistent one, being newer


@pytest.mark.parametrize("how, expected", [("flipped", 8), ("truncated", 8), ("killed", 8),
                                           ("mesh", 6), ("gone", 6)])
def test_what_is_not_whole_or_not_ours_is_not_used(tmp_path, how, expected, whole):
    crashed(tmp_path)
    newest, mesh = local(tmp_path) / "10", None
    if how == "killed":  # between commit and seal
        (newest / "checksums.json").unlink()
    elif how == "mesh":
        mesh = make_mesh(dict(data=2), jax.devices()[:2])
    elif how == "gone":
        shutil.rmtree(tmp_path / "ssd")
    else:
        damage(newest, how)
    resumed = run(tmp_path / "a", mesh=mesh, **two_tiers(tmp_path))
    assert f"resuming from step {expected}" in notes(tmp_path / "a")
    if mesh is None:
        assert_same(whole, resumed.state)


def test_broken_persistent_step_falls_back_to_an_older_local_one(tmp_path):
    crashed(tmp_path, at=7)
    damage(tmp_path / "a" / "checkpoints" / "6", "flipped")
    run(tmp_path / "a", **two_tiers(tmp_path))
    said = notes(tmp_path / "a")
    assert "checkpoint 6 is broken" in said and "step 4 is from the hosts' own disks" in said


def test_a_workdir_made_anew_does_not_take_the_old_ones_steps(tmp_path):
    crashed(tmp_path)
    shutil.rmtree(tmp_path / "a")
    run(tmp_path / "a", **two_tiers(tmp_path, **{"train.steps": 1}))
    assert "resuming" not in notes(tmp_path / "a")
    assert [r["step"] for r in records(tmp_path / "a")] == [1]


def test_a_full_local_disk_turns_the_tier_off_and_training_goes_on(tmp_path, monkeypatch, capfd):
    usage = shutil.disk_usage
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: full if "ssd" in str(path)
                        else usage(path))
    result = run(tmp_path / "a", **two_tiers(tmp_path))
    assert result.step == 12 and steps(tmp_path / "a") == [6, 12]
    assert capfd.readouterr().err.count("local checkpoints failed, there will be none") == 1


@pytest.mark.parametrize("settings, message", [
    ({"train.local_every": 0}, "config.train.local_every; expected: steps"),
    ({"train.local_dir": "gs://bucket/x"}, "not a folder of this host"),
])
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "a", **two_tiers(tmp_path, **settings))


def test_replicas_give_what_was_lost_bit_by_bit():
    """Eight devices in two replicas of four pieces; a device that lost its pieces holds rubbish."""
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
    values = {"w": np.array([[-0.0, np.nan], [1e-45, -np.inf], [3, 4], [5, 6]], np.float32),
              "half": np.linspace(-1, 1, 8).reshape(4, 2).astype(ml_dtypes.bfloat16),
              "step": np.int32(-7),
              "flags": np.array([True, False, True, True])}
    specs = {"w": ("fsdp", "tensor"), "half": (("fsdp", "tensor"),), "step": (), "flags": ("tensor",
             )}
    places = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}
    target = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places[name]) for name,
              x in values.items()}
    # different pieces of different replicas
    lost = {mesh.devices[0, 0, 0, 0], mesh.devices[1, 1, 0, 1]}

    def torn(name, x):
        def piece(device, index):
            return jax.device_put(np.zeros_like(x[index]) if device in lost
                                  else np.asarray(x[index]), device)

        pieces = [piece(device, index) for device,
                  index in places[name].devices_indices_map(x.shape).items()]
        return jax.make_array_from_single_device_arrays(x.shape, places[name], pieces)

    def holds(device):
        return device not in lost

    assert recoverable(target, holds)
    torn_values = {name: torn(name, x) for name, x in values.items()}
    found = restore_from_replicas(torn_values, target, holds)
    for name, x in values.items():
        assert found[name].sharding == places[name] and found[name].dtype == x.dtype
        for shard in found[name].addressable_shards:
            ours, theirs = np.asarray(shard.data), np.asarray(x[shard.index])
            assert ours.tobytes() == theirs.tobytes(), (name, shard.device)
    both = {mesh.devices[0, 0, 0, 0], mesh.devices[1, 0, 0, 0]}  # the same piece in both
    assert not recoverable(target, lambda device: device not in both)
    assert recoverable({"step": target["step"]}, lambda device: device == mesh.devices[0, 1, 0, 1])


def test_plain_jobs_have_no_local_tier(tmp_path):
    run(tmp_path / "a", mesh=one_device(), **{"train.steps": 1})
    assert not (tmp_path / "a" / "local_tier.json").exists()
