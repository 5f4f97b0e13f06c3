"""Several real processes as one job: the same numbers as one process, resume on any number of them,
and how they end."""

import json
import shutil
import signal

import pytest

from tests.distributed.hosts import Job, losses
from tests.workdirs import records, steps


def job(count, workdir, data, *pairs, each=None, fresh=False):
    return Job(count, workdir, data, *pairs, each=each, fresh=fresh)


def close(a, b):
    assert [step for step, _ in a] == [step for step, _ in b]
    assert [loss for _, loss in a] == pytest.approx([loss for _, loss in b], rel=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """workdir of 12 steps of one process."""
    workdir = tmp_path_factory.mktemp("whole")
    job(1, workdir, data, "train.steps=12", "@generate=1").ends()
    assert len(losses(workdir)) == 12
    return workdir


def test_two_hosts_train_as_one_and_four_or_one_go_on(tmp_path, data, whole):
    settings = ("train.steps=12", "mesh.fsdp=2", "train.checkpoint_every=6", "train.keep_last=3",
                "@generate=1")
    with job(2, tmp_path / "two", data, *settings, fresh=True) as two:
        two.ends()
    for name in ("four", "one"):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "12")
    with job(4, tmp_path / "four", data, *settings) as four, job(1, tmp_path / "one", data,
                                                                 *settings, "mesh.fsdp=1") as one:
        four.ends()
        one.ends()
    assert "data 1 x fsdp 2" in two.log() and "data 2 x fsdp 2" in four.log()
    assert steps(tmp_path / "two") == [6, 12]
    assert all("resuming from step 6" in resumed.log() for resumed in (four, one))
    for name in ("two", "four", "one"):
        close(losses(whole), losses(tmp_path / name))  # one record a step: host 0 alone writes
        for kind, count in (("valid", 4), ("generated", 2)):
            a, b = ([{k: v for k, v in r.items() if k != "kind"} for r in records(of, kind)]
                    for of in (whole, tmp_path / name))
            assert len(a) == count and a == [pytest.approx(r, rel=1e-5) for r in b]
    assert all("loss" not in two.log(1) and "MFU" not in log for log in (two.log(1), four.log(3)))
    beats = [json.loads(p.read_text())
             for p in sorted((tmp_path / "four" / "heartbeats").iterdir())]
    assert [beat["host"] for beat in beats] == [0, 1, 2, 3]
    assert all(beat["rss_mb"] > 0 for beat in beats)


def stopped(run, workdir):
    """Where the hosts say that they stopped; checks that it is the newest checkpoint."""
    run.ends(*[75] * len(run.processes))
    assert "Traceback" not in run.logs()
    step = int(run.log().split("saved step ")[1].split(",")[0])
    assert steps(workdir)[-1] == step
    return step


def test_sigterm_to_one_host_stops_all_at_the_same_step(tmp_path, data, whole):
    with job(2, tmp_path, data, "train.steps=12", "train.checkpoint_every=100", "@data=0.15",
             "@records=1.2") as run:
        run.until(lambda: len(losses(tmp_path)) >= 3)
        run.kill(signal.SIGTERM, host=1)
        step = stopped(run, tmp_path)
        assert "signal SIGTERM (host 1" in run.log() and steps(tmp_path) == [step]
        assert "records are put away" in run.log(), "host 1 waits for that"
    job(1, tmp_path, data, "train.steps=12").ends()
    close(losses(whole), losses(tmp_path))


@pytest.mark.parametrize("phase, hook", [("evaluating", "@evaluation=0.4"), ("saving", "@save=1"),
                                         ("hook hang", "@hang=4:*")])
def test_sigterm_in_evaluation_save_and_data_wait(tmp_path, data, whole, phase, hook):
    with job(2, tmp_path, data, "train.steps=12",
             f"train.loss_examples={64 if phase == 'evaluating' else 8}", hook) as run:
        run.until(run.says(phase, host=1))
        if phase == "hook hang":  # the loader says so, which is ahead of the steps
            run.until(lambda: len(losses(tmp_path)) >= 2)
        for host in (1, 0) if phase == "saving" else (1,):  # some clusters tell one, others all
            run.kill(signal.SIGTERM, host)
        step = stopped(run, tmp_path)
        assert step in {"hook hang": (3, 4)}.get(phase, (3,))
    if phase == "evaluating":  # goes on with the evaluation that it was called away from
        job(2, tmp_path, data, "train.steps=12", "train.loss_examples=64").ends()
        assert [r["step"] for r in records(tmp_path, "valid")] == [3, 6, 9, 12]
        close(losses(whole), losses(tmp_path))


def test_sigterm_while_compiling_ends_all_at_once(tmp_path, data):
    with job(2, tmp_path, data, "@compile=500") as run:
        run.until(run.says("compiling", host=0))
        run.kill(signal.SIGTERM, host=0)
        run.ends(75, 75)
        assert "signal SIGTERM: nothing to save" in run.log(0)
        assert "ended the job: signal SIGTERM" in run.log(1) and steps(tmp_path) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_host_ends_the_others_in_bounded_time(tmp_path, data, victim):
    with job(2, tmp_path, data, "train.steps=100000", "train.heartbeat_timeout=8",
             "@data=0.02") as run:
        run.until(lambda: len(losses(tmp_path)) >= 4)
        run.kill(signal.SIGKILL, host=victim)
        codes = run.wait()
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 75, run.logs()


def test_hosts_with_other_settings_are_refused(tmp_path, data):
    with job(2, tmp_path / "w", data, each=[[], ["optimizer.learning_rate=0.5"]]) as run:
        run.ends(2, 2)
    for host in (0, 1):
        for word in ("differ in their config", "optimizer.learning_rate", "0.01, as on host 0",
                     "0.5 on host 1"):
            assert word in run.log(host), run.log(host)
    assert not (tmp_path / "w").exists()


def test_an_error_of_one_host_ends_all_with_its_code_and_reason(tmp_path, data):
    with job(2, tmp_path, data, "@raise=4:1") as run:
        run.ends(2, 2)
    assert "error: a broken record; where: shard 3" in run.log(1)
    assert "ended the job: a broken record" in run.log(0)


def test_a_barrier_names_the_host_that_does_not_come(tmp_path, data):
    with job(2, tmp_path, data, "train.barrier_timeout=6", "@absent=all checks:1") as run:
        run.ends(75, 75)
    assert "barrier 'all checks': after 6 s still missing: host 1 (" in run.log(0)
    assert "still missing: host 1" in run.log(1)


def test_a_hang_is_ended_by_the_watchdog_with_every_stack(tmp_path, data):
    with job(2, tmp_path, data, "train.watchdog_seconds=6", "@hang=5:1") as run:
        run.ends(75, 75)
    assert all("watchdog: no step completed for" in run.log(host) and "hread 0x" in run.log(host)
               for host in (0, 1))
    assert "in slow" in run.log(1), "the stacks show where the loader hangs"
