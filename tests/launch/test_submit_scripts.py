"""The scripts of submitted jobs, really run under stand-ins of their clusters: what a job is given,
what follows on its end.

The job is a module of a small repository; it writes what it was given, and ends as it is told.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from avjax.errors import UserError
from launch import submit, targets
from launch.targets import packaging, processes
from tests.launch.test_submit import ROOT, place, run_submit
from tests.launch.walks import write_clips

JOB = """
import json, os, pathlib, signal, sys, time
me, out, plan = int(os.environ.get("JAX_PROCESS_ID", os.environ.get("SLURM_PROCID", 0))), pathlib.Path(sys.argv[1]), sys.argv[2:]
number = len(list(out.glob(f"{me}.*")))
what = plan[min(number, len(plan) - 1)].split("/")
what = what[me] if len(what) > 1 else what[0]
if what == "wait":  # as a job that saves when it is told to stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
keys = ("JAX_", "SLURM_", "PYTHONPATH", "GIVEN")
say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once: the processes share a log
say("start", number, "of", me)
given = {k: v for k, v in os.environ.items() if k.startswith(keys)}
aside = out.parent / f"{out.name}.{me}.{number}"
aside.write_text(json.dumps(given | {"file": __file__, "pid": os.getpid()}))
aside.rename(out / f"{me}.{number}")
while what not in ("wait", "deaf") and len(list(out.glob(f"*.{number}"))) < int(os.environ.get("JAX_NUM_PROCESSES", 1)):
    time.sleep(0.02)  # nobody ends before all have begun
if what in ("wait", "deaf"):
    time.sleep(700)  # more than any test may take
if what in ("late", "die"):  # once the others have ended and their parent knows
    for file in out.glob(f"*.{number}"):
        pid = json.loads(file.read_text())["pid"]
        while pid != os.getpid() and os.path.exists(f"/proc/{pid}"):
            time.sleep(0.02)
if what == "late":
    sys.exit(75)
if what == "join":  # finds the others, and adds up with them
    sys.path.append(os.environ["AVJAX"])
    import jax
    from jax.experimental import multihost_utils
    from avjax.hosts import distributed
    assert distributed.initialize()
    say("together", multihost_utils.process_allgather(jax.numpy.float32(distributed.process_index())).tolist())
    distributed.shutdown()
    sys.exit(0)
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what))
"""  # noqa: E501 (a script)


@pytest.fixture
def repository(tmp_path):
    """A git checkout with a package `tiny`, whose module `job` is JOB."""
    root = tmp_path / "repository"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "__init__.py").touch()
    (root / "tiny" / "job.py").write_text(JOB)
    git = ("git", "-C", str(root), "-c", "user.name=me", "-c", "user.email=me@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "A job")):
        subprocess.run((*git, *command), check=True)
    return root


def run_local(repository, out, *plan, count=1, restarts=0, grace=5.0):
    out.mkdir(exist_ok=True)
    return processes.run((sys.executable, "-m", "tiny.job", str(out), *plan), processes=count,
                         environment={"GIVEN": "yes", "AVJAX": str(ROOT)}, logs=out.parent / "logs",
                         cwd=repository,
                         max_restarts=restarts, grace=grace)


def until(condition, seconds=100.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_find_their_peers_and_restart_together(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "PAUSE", 0.05)
    assert run_local(repository, tmp_path / "out", "75", "75/die", "join", count=2, restarts=2,
                     grace=60.0) == 0
    said = {name: json.loads((tmp_path / "out" / name).read_text())
            for name in ("0.0", "1.0", "0.1", "1.1", "0.2", "1.2")}
    assert {s["JAX_PROCESS_ID"] for s in said.values()} == {"0",
                                                            "1"} and said["0.0"]["GIVEN"] == "yes"
    assert said["0.0"]["JAX_COORDINATOR_ADDRESS"] == said["1.0"]["JAX_COORDINATOR_ADDRESS"]
    assert len(list((tmp_path / "out").iterdir())) == 6
    shown = capsys.readouterr()
    for k, text in enumerate((shown.out, (tmp_path / "logs" / "process-1.log").read_text())):
        assert [line for line in text.splitlines() if line.startswith(("start", "together"))] == [
            *(f"start {i} of {k}" for i in range(3)), "together [0.0, 1.0]"], (k, shown.err)
    assert "SIGKILL" in shown.err


def test_processes_of_one_machine_share_its_cards(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "CARDS", tmp_path / "none")
    assert processes.cards(0, 2) == {}
    monkeypatch.setattr(processes, "CARDS", tmp_path)
    for card in range(4):
        (tmp_path / f"0000:0{card}:00.0").mkdir()
    assert processes.cards(1, 2) == {"CUDA_VISIBLE_DEVICES": "2,3"} and processes.cards(0, 8) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert processes.cards(1, 2) == {"CUDA_VISIBLE_DEVICES": "7"}


def test_what_a_process_says_at_once_is_shown(repository, tmp_path, monkeypatch, capsys):
    def start(*args, popen=subprocess.Popen, **how):  # it has ended before the launcher goes on
        process = popen(*args, **how)
        process.wait()
        return process

    monkeypatch.setattr(processes, "PAUSE", 0.0)
    monkeypatch.setattr(processes.subprocess, "Popen", start)
    assert run_local(repository, tmp_path / "out", "75", "0", restarts=1) == 0
    assert capsys.readouterr().out.splitlines() == ["start 0 of 0", "start 1 of 0"]


@pytest.mark.parametrize("plan, count, restarts, code, starts", [
    ("75", 2, 2, 75, 3),  # in vain, as often as allowed
    ("wait/2/wait", 3, 2, 2, 1),  # a user's error: the others are ended, and nothing starts again
    ("deaf/1", 2, 2, 1, 1),  # one that does not listen is killed when its time is up
    ("1", 1, 0, 1, 1)])
def test_one_ends_all(repository, tmp_path, monkeypatch, plan, count, restarts, code, starts):
    monkeypatch.setattr(processes, "PAUSE", 0.05)
    assert run_local(repository, tmp_path / "out", plan, count=count, restarts=restarts,
                     grace=1.0) == code
    assert len(list((tmp_path / "out").iterdir())) == count * starts


def test_a_signal_reaches_all_and_is_obeyed(repository, tmp_path):
    (tmp_path / "out").mkdir()
    code = (f"import pathlib, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom launch.targets import "
            "processes\n"
            f"command = (sys.executable, '-m', 'tiny.job', {str(tmp_path / 'out')!r}, 'wait')\n"
            f"sys.exit(processes.run(command, processes=2, environment={{}}, "
            f"logs=pathlib.Path({str(tmp_path)!r}), "
            f"cwd={str(repository)!r}, max_restarts=5, grace=20))")
    job = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(list((tmp_path / "out").iterdir())) == 2)
    job.send_signal(signal.SIGTERM)
    # saved, and not started again
    assert job.wait(100) == 75 and len(list((tmp_path / "out").iterdir())) == 2


SBATCH = """#!/bin/bash
# Runs the script as SLURM would, with the allocation that its directives ask for; requeued as long as scontrol says so.
nodes=$(sed -n 's/^#SBATCH --nodes=//p' "$1"); tasks=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$1")
out=$(sed -n 's/^#SBATCH --output=//p' "$1" | sed 's/%j/77/')
export SLURM_JOB_ID=$RANDOM SLURM_NTASKS=$((nodes * tasks)) SLURM_SUBMIT_DIR=$PWD  # the id decides the coordinator's port
for restart in 0 1 2 3; do
  rm -f requeued
  [ $restart = 0 ] || export SLURM_RESTART_COUNT=$restart
  bash "$1" >> "$out" 2>&1; echo $? >> codes
  [ -e requeued ] || exit 0
done
"""  # noqa: E501 (a script)
SRUN = f"""#!{sys.executable}
# A task a rank, on machines that are all this one; ends with the highest code. --wait=0: the others
# go on once one task has ended, whatever its code; without it they are killed.
import os, subprocess, sys, time
command, options = sys.argv[1:], dict(wait=1)
while command[0].startswith("--"):
    name, _, value = command.pop(0)[2:].partition("=")
    options[name] = value
rank = dict(SLURM_LOCALID="0", SLURM_STEP_NODELIST="localhost", SLURM_STEP_TASKS_PER_NODE="1")
tasks = [subprocess.Popen(command, env=os.environ | rank | dict(SLURM_PROCID=str(k)))
         for k in range(int(os.environ["SLURM_NTASKS"]))]
while any(alive := [task for task in tasks if task.poll() is None]):
    if float(options["wait"]) and len(alive) < len(tasks):
        [task.kill() for task in alive]
    time.sleep(0.02)
sys.exit(max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks)))
"""
SCONTROL = """#!/bin/bash
[ "$1 $2" = "requeue $SLURM_JOB_ID" ] && touch "$SLURM_SUBMIT_DIR/requeued"
"""


def stubs(folder, **scripts):
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_slurm_script_runs_restarts_and_uses_the_packed_code(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", stubs(tmp_path / "bin", sbatch=SBATCH, srun=SRUN, scontrol=SCONTROL))
    out, folder = tmp_path / "out", tmp_path / "submissions"
    out.mkdir()
    where = place("cpu:2", grace=0.3, revision=packaging.revision(repository, False),
                  folder=str(folder), cwd=str(repository))
    variables = {"GIVEN": "yes", "AVJAX": str(ROOT), "JAX_PLATFORMS": "cpu"}
    job = targets.Job("tiny", "tiny.job", (str(out), "0/late", "75/die", "join"), variables,
                      python=sys.executable)
    assert submit.submit("slurm", [job], where, repository, dry_run=False) == 0
    assert (folder / "codes").read_text().split() == ["75", "137", "0"]
    log = (folder / "tiny-77.log").read_text()
    assert log.count("back into the queue") == 2 and log.count("together [0.0, 1.0]") == 2, log
    assert sum(line.startswith("start") for line in log.splitlines()) == 6
    said = json.loads((out / "1.2").read_text())
    assert said["SLURM_PROCID"] == "1" and said["SLURM_RESTART_COUNT"] == "2" and said[
        "GIVEN"] == "yes"
    # not the checkout, though the job ran there
    assert said["file"] == f"{folder}/code-{where.revision}/tiny/job.py"
    (folder / "codes").unlink()
    job = dataclasses.replace(job, arguments=(str(out), *["0"] * 3, "2"))
    submit.submit("slurm", [job], where, repository, dry_run=False)
    assert (folder / "codes").read_text().split() == ["2"]  # an error stays one


@pytest.fixture
def worker(repository, tmp_path, monkeypatch):
    """Starts the script of a TPU VM's worker for a plan of JOB, with the checkout as what was
    installed."""
    tpu_vm = targets.load("tpu_vm")
    monkeypatch.setattr(tpu_vm, "PAUSE", 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "avjax-0123456789ab").symlink_to(repository)
    (repository / ".venv" / "bin").mkdir(parents=True)
    (repository / ".venv" / "bin" / "activate").write_text("")

    def start(*plan):
        job = targets.Job("tiny", "tiny.job", (str(tmp_path / "out"), *plan), {"GIVEN": "yes"},
                          python=sys.executable)
        (tmp_path / "tiny.sh").write_text(tpu_vm.render([job],
                                                        place("v5e:4x4",
                                                              zone="z")).files["tiny.sh"])
        with (tmp_path / "tiny.log").open("w") as log:
            return subprocess.Popen(["bash", str(tmp_path / "tiny.sh")],
                                    env=os.environ | {"HOME": str(tmp_path)}, stdout=log)

    return start


def test_tpu_vm_worker_starts_the_job_again(worker, tmp_path):
    out = tmp_path / "out"
    assert worker("75", "die", "0").wait(100) == 0 and len(list(out.iterdir())) == 3
    assert worker(*["0"] * 3, "2").wait(100) == 2 and len(list(out.iterdir())) == 4


@pytest.mark.parametrize("moment", ["running", "ended", "between starts"])
def test_stopped_tpu_vm_worker_ends_with_the_jobs_code(worker, tmp_path, monkeypatch, moment):
    """As the hint to stop it says; also where the job has ended by the time the script hears of it,
    and where there is none."""
    monkeypatch.setattr(targets.load("tpu_vm"), "PAUSE", 200)
    running = worker("75" if moment == "between starts" else "wait")
    try:
        if moment == "between starts":
            until(lambda: "exit code 75 after restart 0" in (tmp_path / "tiny.log").read_text())
        else:
            until(lambda: list((tmp_path / "out").iterdir()))
        shell = int((tmp_path / "tiny.pid").read_text())
        if moment == "ended":
            child = int(pathlib.Path(f"/proc/{shell}/task/{shell}/children").read_text())
            os.kill(shell, signal.SIGSTOP)
            os.kill(child, signal.SIGTERM)
            until(lambda: pathlib.Path(f"/proc/{child}/stat").read_text().split(")")[1].split(
                )[0] == "Z")
        os.kill(shell, signal.SIGTERM)
        os.kill(shell, signal.SIGCONT)
        assert running.wait(100) == 75 and len(list((tmp_path / "out").iterdir())) == 1
    finally:
        running.kill()


def test_what_is_packed(repository, tmp_path):
    clean = packaging.revision(repository, False)
    (repository / "tiny" / "new.py").write_text("x = 1")
    (repository / "ignored.log").write_text("much")
    (repository / ".gitignore").write_text("*.log")
    with pytest.raises(UserError, match="not committed.*tiny/new.py.*--uncommitted"):
        packaging.revision(repository, False)
    changed = packaging.revision(repository, True)
    (repository / "tiny" / "new.py").write_text("x = 2")
    again = packaging.revision(repository, True)
    assert clean == changed[:12] == again[:12] and len({clean, changed, again}) == 3
    for revision, files in ((clean, {"tiny/job.py"}),
                            (again, {"tiny/job.py", "tiny/new.py", ".gitignore"})):
        subprocess.run(packaging.pack(repository, revision), check=True, cwd=tmp_path)
        listed = subprocess.check_output(["tar", "-tzf",
                                          str(tmp_path / packaging.archive(revision))],
                                         text=True).split()
        assert files <= set(listed) and "ignored.log" not in listed and (
            "tiny/new.py" in listed) == (revision == again)
    with pytest.raises(UserError, match="not a git checkout"):
        packaging.revision(tmp_path / "bin", True)


@pytest.mark.slow
def test_training_on_two_processes_of_this_machine(tmp_path):
    """The command as a user gives it: a job of two hosts that train one model."""
    values = {"system.d_ff": 8, "system.dropout": 0.0,
              "data.dir": write_clips(tmp_path / "clips").dir, "data.batch_size": 2,
              "data.segment": 16, "mesh.data": 2, "train.steps": 2, "train.checkpoint_every": 2,
              "train.evaluate_every": 0, "train.log_every": 1, "train.peak_flops": 1e11}
    done = run_submit("--target=local", "--processes=2", "--devices=1",
                      "--config=configs/head_vae.py", "--seed=3", "--name=walk",
                      f"--workdir={tmp_path / 'run'}", f"--submissions={tmp_path}",
                      *(f"--config.{k}={v}" for k, v in values.items()))
    assert done.returncode == 0, done.stderr + done.stdout
    steps = [r["step"] for r in map(json.loads,
                                    (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
             if r["kind"] == "train"]
    assert steps == [1, 2] and "mesh: data 2" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 3
    # host 0 speaks for both
    assert "mesh: data 2" not in (tmp_path / "walk" / "walk" / "process-1.log").read_text()
