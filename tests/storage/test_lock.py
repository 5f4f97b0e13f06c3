import json
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from avjax.errors import UserError
from avjax.storage import holders, lock

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, pathlib
from avjax.storage import lock
with lock.hold(pathlib.Path(sys.argv[1]) / lock.NAME, "the workdir", sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/run, until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def taken(folder, **how):
    return lock.hold(folder / lock.NAME, "the workdir", folder, **how)


def test_a_second_writer_is_told_who_the_first_is_and_follows_its_death_at_once(tmp_path, holder):
    run = tmp_path / "run"
    before = (run / lock.NAME).read_bytes()
    since = json.loads(before)["since"]
    with pytest.raises(lock.Busy) as error, taken(run):
        pass
    for word in (
        f"another job is writing the workdir {run}",
        f"process {holder.pid}",
        f"since {since}",
        f"host {os.uname().nodename}",
    ):
        assert word in str(error.value)
    assert (run / lock.NAME).read_bytes() == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with taken(run):
        assert json.loads((run / lock.NAME).read_text())["pid"] == os.getpid()
    assert not run.exists() or not list(run.iterdir())


def test_the_lock_leaves_nothing_and_may_be_taken_again_inside(tmp_path):
    run = tmp_path / "deep" / "run"
    with taken(run):
        with taken(run):
            pass
        assert (run / lock.NAME).exists()
        with pytest.raises(lock.Busy), taken(run, again=False):
            pass
        (tmp_path / "deep" / "mine").touch()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["mine"]


def test_children_neither_hold_it_nor_have_it(tmp_path):
    with taken(tmp_path):
        child = os.fork()
        if not child:  # the parent's lock is not the child's
            try:
                with taken(tmp_path):
                    os._exit(1)
            except lock.Busy:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            close_fds=False,
        )
    with taken(tmp_path):
        pass
    sleeper.communicate()


def test_a_descriptor_that_outlives_its_process_does_not_keep_the_lock(tmp_path):
    code = (
        "import sys, os, pathlib, subprocess, signal\nfrom avjax.storage import lock\n"
        "file = pathlib.Path(sys.argv[1]) / lock.NAME\n"
        "with lock.hold(file, 'x', 'y'):\n"
        "    fd = next(iter(lock._held.values()))._fd\n"
        "    child = subprocess.Popen(['sleep', '60'], pass_fds=[fd], stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        with taken(tmp_path):
            assert (tmp_path / lock.NAME).exists()
    finally:
        os.kill(int(done.stdout), signal.SIGKILL)


@pytest.fixture
def quick(monkeypatch):
    """Seconds become hundredths."""
    for name, value in (
        ("AGE", 0.3),
        ("SETTLE", 0.01),
        ("POLL", 0.02),
        ("BEAT", 0.02),
        ("PREDECESSOR", 0.3),
    ):
        monkeypatch.setattr(lock, name, value)


def record(**changes):
    return (
        holders.new_record()
        | {"host": "elsewhere", "boot": "another", "pid": 7, "command": "theirs"}
        | changes
    )


class Bucket:
    """A remote file, as epath has them."""

    def __init__(self, folder):
        self._file, self.parent = Path(folder) / "object", Path(folder)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("kind", ["bucket", "mount"])
def test_a_writer_of_another_machine_lives_as_long_as_it_counts(
    tmp_path, quick, monkeypatch, kind, capfd
):
    file = Bucket(tmp_path) if kind == "bucket" else tmp_path / "object"
    monkeypatch.setattr(holders, "is_on_local_disk", lambda file: False)
    monkeypatch.setattr(holders, "flock", lambda fd: None)
    count, ended = [0], threading.Event()

    def put():
        text = json.dumps(record(key="theirs", beat=count[0]))
        if kind == "bucket":  # an object of a bucket is whole at once
            (tmp_path / "aside").write_text(text)
            os.replace(tmp_path / "aside", tmp_path / "object")
        else:
            (tmp_path / "object").write_text(text)

    def beat():
        while not ended.wait(0.02):
            count[0] += 1
            put()

    put()
    other = threading.Thread(target=beat)
    other.start()
    with (
        pytest.raises(lock.Busy, match="host elsewhere, process 7"),
        lock.hold(file, "the workdir", "w"),
    ):
        pass
    ended.set()
    other.join()
    with lock.hold(file, "the workdir", "w"):
        assert json.loads((tmp_path / "object").read_text())["pid"] == os.getpid()
    assert "looking for up to" in capfd.readouterr().err
    assert not (tmp_path / "object").exists()


@pytest.mark.parametrize("kind", ["bucket", "mount"])
def test_a_holder_whose_lock_was_taken_over_is_told(tmp_path, quick, monkeypatch, kind):
    told = threading.Event()
    file = Bucket(tmp_path) if kind == "bucket" else tmp_path / "object"
    with lock.hold(file, "the workdir", "w", on_lost=lambda why: told.set()):
        aside = tmp_path / "aside"
        aside.write_text(json.dumps(record(key="theirs")))
        aside.replace(tmp_path / "object")
        assert told.wait(10)
    assert json.loads((tmp_path / "object").read_text())["key"] == "theirs"


def test_a_lock_that_was_deleted_is_written_again(tmp_path, quick):
    with taken(tmp_path):
        (tmp_path / lock.NAME).unlink()
        for _ in range(500):
            if (tmp_path / lock.NAME).exists():
                break
            threading.Event().wait(0.01)
        with pytest.raises(lock.Busy), _another_process(tmp_path):
            pass
    assert not (tmp_path / lock.NAME).exists()


def _another_process(folder):
    """This process without what it knows of its own locks."""
    mine, lock._held = lock._held, {}
    try:
        context = taken(folder)
        context.__enter__()
    finally:
        lock._held = mine
    raise AssertionError("taken twice")


def test_a_run_that_was_told_to_stop_or_was_requeued_is_waited_for(
    tmp_path, quick, monkeypatch, holder, capfd
):
    run = tmp_path / "run"
    monkeypatch.setattr(
        holders, "new_record", lambda made=holders.new_record: made() | {"job": "12", "restarts": 1}
    )
    with pytest.raises(lock.Busy) as error, taken(run):
        pass
    assert not error.value.predecessor and "waiting" not in capfd.readouterr().err
    for changes in ({"ending": True}, {"job": "12", "restarts": 0}):
        found = json.loads((run / lock.NAME).read_text()) | changes
        (run / lock.NAME).write_text(json.dumps(found).ljust(holders.RECORD))
        with pytest.raises(lock.Busy) as error, taken(run):
            pass
        assert error.value.predecessor and "waiting for its end" in capfd.readouterr().err
    monkeypatch.setattr(lock, "PREDECESSOR", 60.0)
    threading.Timer(0.1, holder.kill).start()
    with taken(run):
        pass


def test_asking_to_stop_is_noted_and_a_sudden_end_lets_go(tmp_path, quick):
    with taken(tmp_path):
        lock.announce_end()
        for _ in range(500):
            if json.loads((tmp_path / lock.NAME).read_text())["ending"]:
                break
            threading.Event().wait(0.01)
        assert json.loads((tmp_path / lock.NAME).read_text())["ending"]
        lock.release_all()
        assert not (tmp_path / lock.NAME).exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written.*file"), taken(tmp_path / "file"):
        pass


def test_a_link_to_a_disk_that_is_not_there_is_one_line(tmp_path):
    file = tmp_path / lock.NAME
    file.symlink_to(tmp_path / "gone" / lock.NAME)
    with pytest.raises(UserError, match="the workdir run cannot be written.*No such file"):
        with lock.hold(file, "the workdir", "run"):
            pass


def test_disks_of_one_machine_are_known(tmp_path, monkeypatch):
    lines = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /mnt/bucket rw shared:1 - fuse.gcsfuse b rw\n"
    )
    fake = types.SimpleNamespace(Path=lambda path: types.SimpleNamespace(read_text=lambda: lines))
    monkeypatch.setattr(holders, "pathlib", fake)
    assert holders.is_on_local_disk("/home/run/.lock")
    assert not holders.is_on_local_disk("/mnt/bucket/run/.lock")
