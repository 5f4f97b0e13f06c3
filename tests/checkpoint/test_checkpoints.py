"""Checkpoints that are torn, cannot be read or saved, or are another model's: what a job that finds
them does."""

import errno
import os
import pathlib
import types

import jax
import orbax.checkpoint as ocp
import pytest

from avjax.checkpoint import checkpoints
from avjax.checkpoint import files as checkpoint_files
from avjax.errors import UserError
from avjax.hosts import distributed, peers
from tests.training import toy
from tests.training.test_loop import assert_same, run
from tests.workdirs import steps


def damage(folder, how):
    files = sorted((p for p in (folder / "state").rglob("*") if p.is_file()),
                   key=lambda p: p.stat().st_size)
    if how == "truncated":
        files[-1].write_bytes(files[-1].read_bytes()[:-40])
    elif how == "flipped":
        data = bytearray(files[-1].read_bytes())
        data[len(data) // 2] ^= 1
        files[-1].write_bytes(data)
    elif how == "missing":
        files[-1].unlink()
    elif how == "unsealed":  # killed between commit and checksums, and torn as well
        (folder / "checksums.json").unlink()
        (folder / "state" / "_METADATA").write_text("{")


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "unsealed"])
def test_torn_checkpoint_falls_back_to_the_one_before(tmp_path, how, capfd):
    whole = run(tmp_path)
    damage(tmp_path / "checkpoints" / "6", how)
    params, meta = checkpoints.load(tmp_path, toy.ToySystem())
    assert meta["step"] == 3 and "config" in meta  # of the one that was read
    resumed = run(tmp_path)
    assert "checkpoint 6 is broken" in capfd.readouterr().err
    assert_same(whole.state, resumed.state)
    assert (tmp_path / "checkpoints_broken" / "6").is_dir() and steps(tmp_path) == [3, 6]
    assert float(params["scale"]) == float(checkpoints.load_params(tmp_path, toy.ToySystem(),
                                                                   step=3)["scale"])
    with pytest.raises(UserError, match="broken"):
        checkpoints.load_params(tmp_path / "checkpoints_broken" / "6", toy.ToySystem())


OUTAGES = (PermissionError("no"), ConnectionResetError("gone"),
           RuntimeError("503 Service Unavailable"),
           ValueError("ABORTED: All 32 retry attempts failed: no [http_response_code='500']"),
           OSError(24, "Too many open files"))


def test_errors_of_the_storage_and_of_memory_say_nothing_of_a_checkpoint():
    def found(error, cause=None):
        with pytest.raises(Exception) as seen, checkpoint_files.reading("here"):
            raise error from cause
        return seen.type

    assert {found(error) for error in OUTAGES} == {found(ValueError("wrapped"),
                                                         OUTAGES[0])} == {
                                                             checkpoint_files.Unreadable}
    lack = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    assert found(MemoryError()) is MemoryError and found(lack) is type(lack)
    torn = (FileNotFoundError("a"), ValueError("NOT_FOUND: no (403, 512)"), KeyError("b"),
            ValueError("DATA_LOSS: 503 bytes"))
    assert {found(error) for error in torn} == {checkpoint_files.Broken}


@pytest.mark.parametrize("reads", ["metadata", "restore"])
def test_a_checkpoint_that_cannot_be_read_now_is_left_alone(tmp_path, monkeypatch, reads):
    run(tmp_path)

    def fail(error):
        def failing(*args, **kwargs):
            raise error
        return failing

    for error, ends in ((OUTAGES[3], peers.Restart), (MemoryError(), MemoryError)):
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, reads, fail(error))
        with pytest.raises(ends):
            run(tmp_path)
    assert steps(tmp_path) == [3, 6] and not (tmp_path / "checkpoints_broken").exists()


def test_files_that_other_hosts_show_late_are_waited_for(monkeypatch):
    naps, seen = [], iter([[], [3], [3, 6]])
    monkeypatch.setattr(checkpoint_files, "time", types.SimpleNamespace(sleep=naps.append))
    monkeypatch.setattr(distributed, "gather", lambda name, value: [[3, 6], value])
    assert checkpoint_files.retry_until_stable("steps", lambda: next(seen)) == [[3, 6],
                                                                     [3, 6]] and naps == [0, 1, 2]
    assert checkpoint_files.retry_until_stable("steps", lambda: [3]) == [[3, 6],
                                                              [3]] and 60 < sum(naps[3:]) < 70


def test_no_whole_checkpoint_left(tmp_path):
    run(tmp_path)
    for step in (3, 6):
        damage(tmp_path / "checkpoints" / str(step), "truncated")
    with pytest.raises(UserError, match="no whole checkpoint"):
        run(tmp_path)


def test_checkpoint_of_another_model_names_the_parameter(tmp_path):
    run(tmp_path)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError) as error:
        run(tmp_path, system=toy.ToySystem(width=16))
    for word in ("another model", "params/hidden/bias", "(16,)", "(8,)"):
        assert word in str(error.value)
    with pytest.raises(UserError, match="params/hidden/bias"):
        checkpoints.load_params(tmp_path, toy.ToySystem(width=16))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    with pytest.raises(UserError, match="ema"):
        run(tmp_path, **{"optimizer.ema_decay": 0.5})


def test_load_params_picks_average_and_step(tmp_path):
    state = run(tmp_path, **{"optimizer.ema_decay": 0.5}).state
    assert_same(checkpoints.load_params(tmp_path, toy.ToySystem()), state["ema"])
    assert_same(checkpoints.load_params(tmp_path, toy.ToySystem(), which="params"), state["params"])
    assert_same(checkpoints.load_params(tmp_path / "checkpoints" / "6", toy.ToySystem()),
                state["ema"])
    assert checkpoints.load_meta(tmp_path)["config"]["data"]["batch_size"] == 8
    with pytest.raises(UserError, match=r"one of the steps \[3, 6\]; found: 4"):
        checkpoints.load_params(tmp_path, toy.ToySystem(), step=4)
    with pytest.raises(UserError, match="no checkpoint here"):
        checkpoints.load_params(tmp_path / "nowhere", toy.ToySystem())


def test_failed_save_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 100})()
    run(tmp_path, **{"train.steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "disk_usage", lambda path: full)
        with pytest.raises(UserError, match="disk space.*last whole checkpoint: step 3"):
            run(tmp_path)
    assert steps(tmp_path) == [3] and run(tmp_path).step == 6


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch, code):
    """Else training would begin anew at step 0."""
    run(tmp_path)

    def fail(self):
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "iterdir", fail)
        with pytest.raises(peers.Restart):
            run(tmp_path)
    assert steps(tmp_path) == [3, 6]


@pytest.mark.parametrize("code, exit", [(errno.EMFILE, 75), (errno.EIO, 75), (errno.ENOSPC, 2)])
def test_what_ends_a_save_is_told_and_its_rest_removed(tmp_path, code, exit):
    saver = checkpoints.Checkpoints(tmp_path)
    rest = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    rest.mkdir()
    wrapped = ValueError(f"INTERNAL: Error writing: {os.strerror(code)}")  # TensorStore's way
    error = saver._save_error(wrapped, 3)
    assert error.code == exit and os.strerror(code) in str(
        error) and "last whole checkpoint: none" in str(error)
    assert not rest.exists() and ("free disk" not in str(error))
    saver.close()
