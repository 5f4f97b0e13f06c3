"""One dataset by several jobs: the same records in the same order as by one, whoever is killed,
whoever comes last."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from avjax.errors import UserError
from data_pipelines import extract
from data_pipelines.store import dataset as store
from data_pipelines.store import resume
from data_pipelines.store.merge import Part
from launch import workers
from tests import commands
from tests.data_pipelines.test_extract import clip, write_clips

OPTIONS = dict(tokens="units", units=8, progress=False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("parts") / "clips",
                       train=[clip(i, 1.2 + 0.1 * i) for i in range(7)])


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    return extract.extract(clips.dir, tmp_path_factory.mktemp("parts") / "whole", **OPTIONS)


def assert_same(found: store.Dataset, expected: store.Dataset):
    found.verify()
    assert found.ids == expected.ids
    assert found.recipes == expected.recipes
    assert found.splits == expected.splits
    for split in expected.splits:
        for a, b in zip(expected.source(split), found.source(split), strict=True):
            for key, value in a.items():
                assert value == b[key] if isinstance(value,
                                                     str) else value.tobytes() == b[
                                                         key].tobytes(), (split, key)
    for codec in expected.codecs:
        assert all((found.codec(codec)[key] == value).all() for key,
                   value in expected.codec(codec).items())


def test_parts_in_any_order_are_one_dataset(clips, whole, tmp_path):
    out = tmp_path / "out"
    first = [extract.extract(clips.dir, Part(out, k, 3), **OPTIONS) for k in (2, 0)]
    assert first == [None, None] and not out.exists()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.open")}
    assert extract.extract(clips.dir, Part(out, 2, 3), **OPTIONS) is None  # again: nothing to do
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.open")}
    assert_same(extract.extract(clips.dir, Part(out, 1, 3), **OPTIONS), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    # restarted after the end
    assert extract.extract(clips.dir, Part(out, 0, 3), **OPTIONS).dir == out
    with pytest.raises(UserError, match="other options.*units='6'.*units='4'|other options"):
        extract.extract(clips.dir, Part(out, 0, 3), **(OPTIONS | {"units": 4}))


def test_a_part_begun_again_while_the_last_one_ends(clips, whole, tmp_path, monkeypatch):
    out, made = tmp_path / "out", []
    assert extract.extract(clips.dir, Part(out, 0, 2), **OPTIONS) is None

    def meanwhile(*args, agree=resume.made.agree):
        monkeypatch.setattr(resume.made, "agree", agree)
        made.append(extract.extract(clips.dir, Part(out, 1, 2), **OPTIONS))
        return agree(*args)

    monkeypatch.setattr(resume.made, "agree", meanwhile)
    assert_same(extract.extract(clips.dir, Part(out, 0, 2), **OPTIONS), whole)
    assert_same(made[0], whole)


def test_more_parts_than_items(clips, whole, tmp_path):
    made = [extract.extract(clips.dir, Part(tmp_path / "out", k, 9), **OPTIONS) for k in range(9)]
    assert made[:-1] == [None] * 8
    assert_same(made[-1], whole)


def test_parts_that_do_not_fit_together(clips, tmp_path):
    out = tmp_path / "out"
    extract.extract(clips.dir, Part(out, 0, 2), **OPTIONS)
    with pytest.raises(UserError, match="cut up otherwise.*2 parts.*found: 3"):
        extract.extract(clips.dir, Part(out, 1, 3), **OPTIONS)
    with pytest.raises(UserError, match="cut up otherwise.*2 parts.*found: 1"):
        extract.extract(clips.dir, out, **OPTIONS)
    with pytest.raises(UserError, match="other arguments.*units=8.*units=9"):
        extract.extract(clips.dir, Part(out, 1, 2), **(OPTIONS | {"units": 9}))
    # nothing of the first part was lost
    assert extract.extract(clips.dir, Part(out, 1, 2), **OPTIONS) is not None
    for text in ("2/2", "half"):
        with pytest.raises(UserError, match=f"not a part.*{text}"):
            workers.part_of(str(out), text)


def test_an_unusable_clip_ends_its_part_alone(tmp_path):
    dataset = write_clips(tmp_path / "clips", train=[clip(0), clip(1), clip(2), clip(3, 0.02)])
    for k in (0, 1):
        if k:
            with pytest.raises(UserError, match="cannot extract clip 'train3'"):
                extract.extract(dataset.dir, Part(tmp_path / "out", k, 2), progress=False)
        else:
            extract.extract(dataset.dir, Part(tmp_path / "out", k, 2), progress=False)
    assert [p.name for p in (tmp_path / ".out.partial").glob("part-*")] == ["part-00000-of-00002"]
    with pytest.raises(UserError, match="cannot extract clip 'train3'"):
        extract.extract(dataset.dir, Part(tmp_path / "alone", 1, 2), progress=False)
    assert not list(tmp_path.glob(".alone.partial"))  # nobody's work was there


@pytest.mark.parametrize("environment, expected", [
    ({}, None),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, (3, 4)),
    ({"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2",
      "SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
     (1, 2))])
def test_a_process_knows_its_part(monkeypatch, environment, expected):
    for name in [name for name in os.environ
                 if name.startswith(("SLURM_", "JAX_COORD", "JAX_NUM_P", "JAX_PROCESS_ID"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = workers.part_of("out", None)
    assert found == "out" if expected is None else (found.index, found.count) == expected


def test_kill_at_any_moment_loses_and_duplicates_nothing(tmp_path):
    """Real SIGKILLs of one of three parts, also while it puts them together, and all three at once;
    see kill_points.py."""
    program = pathlib.Path(__file__).with_name("kill_points.py")
    done = subprocess.run([sys.executable, str(program), str(tmp_path), "parts"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "moments" in done.stdout, done.stderr


def test_processes_of_the_command_survive_a_kill(clips, whole, tmp_path):
    """`launch.extract --processes=2`; one of them is killed as soon as it has begun its part."""
    out = tmp_path / "out"
    job = commands.start("extract", f"--clips={clips.dir}", f"--out={out}", "--tokens=units",
                         "--units=8", "--processes=2")
    mine = tmp_path / ".out.partial" / "part-00001-of-00002"
    while not mine.exists() and job.poll() is None:
        time.sleep(0.02)
    for pid in pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split():
        if b"JAX_PROCESS_ID=1" in pathlib.Path(f"/proc/{pid}/environ").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
    done = job.wait()
    shown, said = done.stdout, done.stderr
    assert done.returncode == 0, said
    assert "process 1 ended by signal SIGKILL" in said and "restart 1" in said, said
    assert_same(store.open_dataset(out), whole)
    assert "AV-Flow features" in shown + (tmp_path / ".out.logs" / "process-1.log").read_text()
    shutil.rmtree(tmp_path / ".out.logs")
