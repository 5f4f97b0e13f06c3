"""Jobs on clusters: what is written for each kind of them, to the letter, and the scripts really run under stand-ins.

After a change that is meant: AVJAX_UPDATE_GOLDEN=1 python -m pytest tests/launch/test_submit.py, and read the difference.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
import yaml
from ml_collections import ConfigDict

from avjax.errors import UserError
from launch import submit, sweeps, targets
from launch.targets import accelerators, environment, jobs, packaging, processes

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
PLACE = targets.Place(revision="0123456789ab", folder="/shared/me/submissions/demo", cwd="/shared/me")
CONFIG = "configs/avflow_released.py"


def make(kind="train", *, config=CONFIG, workdir="gs://bucket/avflow", name=None, seed=None, sweep=(), env=(), overrides=(),
         rest=(), place=PLACE):
    args = types.SimpleNamespace(config=config, workdir=workdir, name=name, seed=seed, sweep=list(sweep), env=list(env))
    return jobs.make(kind, args, list(overrides), list(rest), place.accelerator, place.slices)


def place(topology, **values):
    return dataclasses.replace(PLACE, accelerator=accelerators.find(topology), **values)


def case(name):
    """(target, jobs, place) of a golden file."""
    if name == "gke_multislice":
        where = place("v5e:16x16", slices=2, image="registry/avjax", extras=("tpu", "gs"), cluster="context", queue="team",
                      namespace="ml", spot=True)
        return "gke", make(place=where, seed=7, overrides=["--config.train.steps=1000"], env=["TPU_STDERR_LOG_LEVEL=0"]), where
    if name == "gke_gpu":
        where = place("h100:8", slices=2, image="registry/avjax", extras=("cuda", "gs"), service_account="trainer")
        return "gke", make(place=where, rest=["--config.data.dir=gs://bucket/features"]), where
    if name == "gke_evaluate":
        where = place("v5e:2x2", image="registry/avjax", extras=("tpu", "gs"))
        return "gke", make("evaluate", place=where, rest=["--split=valid"]), where
    if name == "xpk":
        where = place("v5p:4x4x8", image="registry/avjax", extras=("tpu", "gs"), cluster="cluster", project="project",
                      zone="us-east5-a", reservation="reserved")
        return "xpk", make(place=where), where
    if name == "tpu_vm":
        where = place("v5e:4x4", slices=2, zone="us-west4-a", project="project", spot=True, extras=("tpu", "gs"))
        return "tpu_vm", make(place=where, name="demo"), where
    if name == "slurm_sweep":
        where = place("h100:8", slices=2, queue="gpu", account="lab", time="24:00:00", setup=". /shared/me/venv/bin/activate",
                      cpus_per_task=96)
        return "slurm", make(place=where, workdir="runs/avflow", name="avflow", sweep=["config.optimizer.learning_rate=1e-4,3e-4",
                                                                                     "config.seed=0,1"]), where
    where = place("cpu:4", setup="module load python")
    return "slurm", make("extract", config=None, workdir=None, name="talker-features", place=where,
                         rest=["--features=talker", "--clips=data/clips", "--out=data/features"]), where


@pytest.mark.parametrize("name", ["gke_multislice", "gke_gpu", "gke_evaluate", "xpk", "tpu_vm", "slurm_sweep", "slurm_extract"])
def test_what_is_submitted_is_the_golden_text(name):
    target, made, where = case(name)
    submission = targets.load(target).render(made, where)
    commands = (packaging.pack(pathlib.Path("/home/me/avjax"), where.revision), *submission.commands)
    text = submit.show(submission, commands, pathlib.Path(where.folder))
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("AVJAX_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), f"if this is meant: AVJAX_UPDATE_GOLDEN=1, and read the change of {file}"
    for script, body in submission.files.items():
        if body.startswith("#!/bin/bash"):
            subprocess.run(["bash", "-n", "-c", body], check=True), script


def test_jobset_of_slices_is_what_gke_asks_for():
    _, made, where = case("gke_multislice")
    manifest = yaml.safe_load(targets.load("gke").render(made, where).files["avflow-released.yaml"])
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = manifest["spec"]
    [slice_job] = spec["replicatedJobs"]
    job = slice_job["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert slice_job["replicas"] == 2 and job["parallelism"] == job["completions"] == 64 and job["backoffLimit"] == 0
    assert container["resources"]["limits"]["google.com/tpu"] * 64 * 2 == 512
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert spec["network"]["enableDNSHostnames"] and pod["restartPolicy"] == "Never"
    # 75 and signals start everything again, errors do not
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["operator"] == "In" and codes["containerName"] == container["name"]
    assert set(codes["values"]) >= {1, 2} and not {75, 134, 137, 143} & set(codes["values"])
    assert {rule["onJobFailureReasons"][0]: rule["action"] for rule in spec["failurePolicy"]["rules"]} == {
        "PodFailurePolicy": "FailJobSet", "BackoffLimitExceeded": "RestartJobSet"}
    assert spec["failurePolicy"]["maxRestarts"] == where.max_restarts
    assert "--config.seed=7" in container["command"] and "--config.dcn.data=2" in container["command"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["TPU_STDERR_LOG_LEVEL"] == "0" and variables["JAX_COMPILATION_CACHE_DIR"].startswith("gs://bucket/avflow/")
    assert all(isinstance(value, str) for value in variables.values())


def test_gpu_pods_are_told_their_peers():
    _, made, where = case("gke_gpu")
    spec = targets.load("gke").manifest(made[0], where)["spec"]
    [group] = spec["replicatedJobs"]
    [container] = group["template"]["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    name = made[0].name
    assert variables["JAX_COORDINATOR_ADDRESS"]["value"] == f"{name}-{group['name']}-0-0.{spec['network']['subdomain']}:8482"
    assert variables["JAX_NUM_PROCESSES"]["value"] == "2" == str(group["template"]["spec"]["completions"])
    assert "completion-index" in variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


@pytest.mark.parametrize("topology, hosts, per_host, kind, label", [
    ("v5e:16x16", 64, 4, "v5litepod-256", "tpu-v5-lite-podslice"), ("v5e:1x1", 1, 1, "v5litepod-1", "tpu-v5-lite-podslice"),
    ("v4:4x4x4", 16, 4, "v4-128", "tpu-v4-podslice"), ("v5p:2x2x1", 1, 4, "v5p-8", "tpu-v5p-slice"),
    ("v6e:8x8", 16, 4, "v6e-64", "tpu-v6e-slice"), ("tpu7x:2x2x2", 2, 4, "tpu7x-16", "tpu7x"),
    ("h100:8", 1, 8, "", "nvidia-h100-80gb"), ("cpu:3", 3, 1, "", "")])
def test_names_of_accelerators(topology, hosts, per_host, kind, label):
    found = accelerators.find(topology)
    assert (found.hosts, found.chips_per_host, found.accelerator_type, found.label) == (hosts, per_host, kind, label)


def test_sweep_is_the_product_and_jobs_do_not_share_a_workdir():
    made = make(name="avflow", sweep=["config.optimizer.learning_rate=1e-4,3e-4", "config.seed=0,1,2"])
    assert len({job.name for job in made}) == len({job.arguments for job in made}) == 6
    workdirs = [next(a for a in job.arguments if a.startswith("--workdir=")) for job in made]
    assert workdirs[4] == "--workdir=gs://bucket/avflow/learning_rate=3e-4_seed=1" and len(set(workdirs)) == 6
    assert made[4].name == "avflow-learning-rate-3e-4-seed-1"
    assert {"--config.optimizer.learning_rate=3e-4", "--config.seed=1"} <= set(made[4].arguments)
    assert len({job.environment["JAX_COMPILATION_CACHE_DIR"] for job in made}) == 1  # one program, compiled once
    long = make(name="a-name-that-is-rather-long-already", sweep=["config.optimizer.learning_rate=1e-4,3e-4"])
    assert [job.name for job in long] == [f"a-name-that-is-rather-long-already-00{i}" for i in (0, 1)]
    assert [p.overrides[0] for p in sweeps.points(["config.evaluate.splits=('a','b'),('c',)"])] == [
        "--config.evaluate.splits=('a','b')", "--config.evaluate.splits=('c',)"]


@pytest.mark.parametrize("given, message", [
    (dict(sweep=["config.seed=0,0"]), "not a sweep"), (dict(sweep=["config.seed"]), "not a sweep"),
    (dict(sweep=["config.seed=0", "seed=1"]), "swept twice"), (dict(sweep=["config.sed=0,1"]), "nearest valid key: seed"),
    (dict(overrides=["--config.train.steps=many"]), "wrong type.*many"), (dict(workdir=None), "no workdir"),
    (dict(config=None), "no config"), (dict(name="Not A Name"), "do not take this name"),
    (dict(kind="extract"), "--config means nothing"), (dict(env=["X"]), "not a variable"),
    (dict(config="configs/none.py"), "no such config file")])
def test_mistakes_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        make(**given)


def run_submit(*arguments, path=None, cwd=ROOT):
    env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"PATH": str(path)} if path else {})
    return subprocess.run([sys.executable, "-m", "launch.submit", *arguments], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_as_a_command(tmp_path):
    """A dry run prints all and touches nothing; a missing tool is one line."""
    common = (f"--config={CONFIG}", f"--submissions={tmp_path}/s", "--uncommitted", "--topology=v5e:4x4", "--image=r/a",
              "--workdir=gs://b/r")
    done = run_submit("--target=gke", "--dry_run", *common, "--config.train.steps=5", "--", "--config.data.dir=gs://b/f")
    assert done.returncode == 0 and "google.com/tpu: 4" in done.stdout and "docker push r/a:" in done.stdout, done.stderr
    assert "- --config.train.steps=5" in done.stdout and "- --config.data.dir=gs://b/f" in done.stdout
    assert not (tmp_path / "s").exists()
    (tmp_path / "bin").mkdir()
    for tool in ("git", "bash"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    done = run_submit("--target=xpk", "--cluster=c", *common, path=tmp_path / "bin")
    assert done.returncode == 2 and done.stderr.startswith("error: docker is not installed here"), done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "s").exists()


@pytest.mark.parametrize("target, given, message", [
    ("slurm", {}, "no such machines.*gpu or cpu.*v5e:4x4"), ("gke", {}, "gke needs --image"), ("xpk", {}, "xpk needs --cluster"),
    ("gke", {"topology": ""}, "gke needs --topology"), ("gke", {"topology": "v5e:3x3"}, "no such slice"),
    ("gke", {"topology": "v9:1"}, "unknown chip"),
    ("gke", {"job": "evaluate"}, "one host's.*4 hosts.*--topology=v5e:2x2"),
    ("gke", {"job": "extract", "slices": 2}, "slices mean nothing"), ("slurm", {"topology": "cpu:x"}, "not a number of hosts")])
def test_places_that_there_are_none_of(tmp_path, monkeypatch, target, given, message):
    monkeypatch.setattr(packaging, "revision", lambda root, uncommitted: "0123456789ab")
    args = types.SimpleNamespace(**{f.name: f.default for f in dataclasses.fields(targets.Place) if f.name in submit.HELP},
                                 workdir="gs://b/r", uncommitted=True, dry_run=True)
    args.topology, args.slices, args.job = given.get("topology", "v5e:4x4"), given.get("slices", 1), given.get("job", "train")
    with pytest.raises(UserError, match=message):
        submit.make_place(target, args, None, tmp_path, ROOT)


def test_an_experiment_says_where_it_runs(monkeypatch):
    monkeypatch.setattr(packaging, "revision", lambda root, uncommitted: "0123456789ab")
    args = types.SimpleNamespace(**{f.name: f.default for f in dataclasses.fields(targets.Place) if f.name in submit.HELP},
                                 workdir="gs://b/r", uncommitted=True, dry_run=True, topology=None, slices=None, job="train")
    args.image = "r/a"
    config = ConfigDict({"plan": {"topology": "v5p:4x4x8", "slices": 2}})
    where = submit.make_place("gke", args, config, ROOT, ROOT)
    assert (where.accelerator.topology, where.slices, where.extras) == ("v5p:4x4x8", 2, ("tpu", "gs"))
    args.job = "evaluate"
    where = submit.make_place("gke", args, config, ROOT, ROOT)
    assert (where.accelerator.topology, where.accelerator.hosts, where.slices) == ("v5p:2x2x1", 1, 1)


def test_remote_hosts_see_the_packed_tree_only(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "configs")
    assert submit.inside("avflow_released.py", "gke", ROOT) == CONFIG
    (tmp_path / "mine.py").touch()
    assert submit.inside(f"{tmp_path}/mine.py:small", "slurm", ROOT) == f"{tmp_path}/mine.py:small"
    with pytest.raises(UserError, match="not part of the code that is packed"):
        submit.inside(f"{tmp_path}/mine.py", "gke", ROOT)


# Scripts that really run. The job is a module of a small repository; it writes what it was given, and ends as it is told.

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
print("start", number, "of", me, flush=True)
(out / f"{me}.{number}").write_text(json.dumps({k: v for k, v in os.environ.items() if k.startswith(keys)} | {"file": __file__}))
while what not in ("wait", "deaf") and len(list(out.glob(f"*.{number}"))) < int(os.environ.get("JAX_NUM_PROCESSES", 1)):
    time.sleep(0.02)  # nobody ends before all have begun
if what in ("wait", "deaf"):
    time.sleep(700)  # more than any test may take
if what == "join":  # finds the others, and adds up with them
    sys.path.append(os.environ["AVJAX"])
    import jax
    from jax.experimental import multihost_utils
    from avjax.training import distributed
    assert distributed.initialize()
    print("together", multihost_utils.process_allgather(jax.numpy.float32(distributed.process_index())).tolist(), flush=True)
    distributed.shutdown()
    sys.exit(0)
if what == "die":
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what))
"""


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
                         environment={"GIVEN": "yes", "AVJAX": str(ROOT)}, logs=out.parent / "logs", cwd=repository,
                         max_restarts=restarts, grace=grace)


def until(condition, seconds=100.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_find_their_peers_and_restart_together(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "PAUSE", 0.05)
    assert run_local(repository, tmp_path / "out", "75", "75/die", "join", count=2, restarts=2, grace=60.0) == 0
    said = {name: json.loads((tmp_path / "out" / name).read_text()) for name in ("0.0", "1.0", "0.1", "1.1", "0.2", "1.2")}
    assert {s["JAX_PROCESS_ID"] for s in said.values()} == {"0", "1"} and said["0.0"]["GIVEN"] == "yes"
    assert said["0.0"]["JAX_COORDINATOR_ADDRESS"] == said["1.0"]["JAX_COORDINATOR_ADDRESS"]
    assert len(list((tmp_path / "out").iterdir())) == 6
    shown = capsys.readouterr()
    for k, text in enumerate((shown.out, (tmp_path / "logs" / "process-1.log").read_text())):
        assert [line for line in text.splitlines() if line.startswith(("start", "together"))] == [
            *(f"start {i} of {k}" for i in range(3)), "together [0.0, 1.0]"], (k, shown.err)
    assert "SIGKILL" in shown.err


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
    assert run_local(repository, tmp_path / "out", plan, count=count, restarts=restarts, grace=1.0) == code
    assert len(list((tmp_path / "out").iterdir())) == count * starts


def test_a_signal_reaches_all_and_is_obeyed(repository, tmp_path):
    (tmp_path / "out").mkdir()
    code = (f"import pathlib, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom launch.targets import processes\n"
            f"command = (sys.executable, '-m', 'tiny.job', {str(tmp_path / 'out')!r}, 'wait')\n"
            f"sys.exit(processes.run(command, processes=2, environment={{}}, logs=pathlib.Path({str(tmp_path)!r}), "
            f"cwd={str(repository)!r}, max_restarts=5, grace=20))")
    job = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(list((tmp_path / "out").iterdir())) == 2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(100) == 75 and len(list((tmp_path / "out").iterdir())) == 2  # saved, and not started again


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
"""
SRUN = """#!/bin/bash
# A task a rank, on machines that are all this one; ends with the highest code.
while [[ $1 == --* ]]; do shift; done
for ((k = 0; k < SLURM_NTASKS; k++)); do
  SLURM_PROCID=$k SLURM_LOCALID=0 SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=1 "$@" & children+=($!)
done
highest=0
for child in "${children[@]}"; do wait $child; code=$?; ((code > highest)) && highest=$code; done
exit $highest
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
    where = place("cpu:2", revision=packaging.revision(repository, False), folder=str(folder), cwd=str(repository))
    variables = {"GIVEN": "yes", "AVJAX": str(ROOT), "JAX_PLATFORMS": "cpu"}
    job = targets.Job("tiny", "tiny.job", (str(out), "75", "75/die", "join"), variables, python=sys.executable)
    assert submit.submit("slurm", [job], where, repository, dry_run=False) == 0
    assert (folder / "codes").read_text().split() == ["75", "137", "0"]
    log = (folder / "tiny-77.log").read_text()
    assert log.count("back into the queue") == 2 and log.count("together [0.0, 1.0]") == 2, log
    assert sum(line.startswith("start") for line in log.splitlines()) == 6
    said = json.loads((out / "1.2").read_text())
    assert said["SLURM_PROCID"] == "1" and said["SLURM_RESTART_COUNT"] == "2" and said["GIVEN"] == "yes"
    assert said["file"] == f"{folder}/code-{where.revision}/tiny/job.py"  # not the checkout, though the job ran there
    (folder / "codes").unlink()
    job = dataclasses.replace(job, arguments=(str(out), *["0"] * 3, "2"))
    submit.submit("slurm", [job], where, repository, dry_run=False)
    assert (folder / "codes").read_text().split() == ["2"]  # an error stays one


@pytest.fixture
def worker(repository, tmp_path, monkeypatch):
    """Starts the script of a TPU VM's worker for a plan of JOB, with the checkout as what was installed."""
    tpu_vm = targets.load("tpu_vm")
    monkeypatch.setattr(tpu_vm, "PAUSE", 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "avjax-0123456789ab").symlink_to(repository)
    (repository / ".venv" / "bin").mkdir(parents=True)
    (repository / ".venv" / "bin" / "activate").write_text("")

    def start(*plan):
        job = targets.Job("tiny", "tiny.job", (str(tmp_path / "out"), *plan), {"GIVEN": "yes"}, python=sys.executable)
        (tmp_path / "tiny.sh").write_text(tpu_vm.render([job], place("v5e:4x4", zone="z")).files["tiny.sh"])
        with (tmp_path / "tiny.log").open("w") as log:
            return subprocess.Popen(["bash", str(tmp_path / "tiny.sh")], env=os.environ | {"HOME": str(tmp_path)}, stdout=log)

    return start


def test_tpu_vm_worker_starts_the_job_again(worker, tmp_path):
    out = tmp_path / "out"
    assert worker("75", "die", "0").wait(100) == 0 and len(list(out.iterdir())) == 3
    assert worker(*["0"] * 3, "2").wait(100) == 2 and len(list(out.iterdir())) == 4


@pytest.mark.parametrize("moment", ["running", "ended", "between starts"])
def test_stopped_tpu_vm_worker_ends_with_the_jobs_code(worker, tmp_path, monkeypatch, moment):
    """As the hint to stop it says; also where the job has ended by the time the script hears of it, and where there is none."""
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
            until(lambda: pathlib.Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0] == "Z")
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
    for revision, files in ((clean, {"tiny/job.py"}), (again, {"tiny/job.py", "tiny/new.py", ".gitignore"})):
        subprocess.run(packaging.pack(repository, revision), check=True, cwd=tmp_path)
        listed = subprocess.check_output(["tar", "-tzf", str(tmp_path / packaging.archive(revision))], text=True).split()
        assert files <= set(listed) and "ignored.log" not in listed and ("tiny/new.py" in listed) == (revision == again)
    with pytest.raises(UserError, match="not a git checkout"):
        packaging.revision(tmp_path / "bin", True)


def test_variables_are_what_is_given_last():
    chosen = environment.variables(accelerators.find("h100:8"), "", {"XLA_FLAGS": "--mine"})
    assert chosen["XLA_FLAGS"] == "--mine" and "JAX_COMPILATION_CACHE_DIR" not in chosen
    alone = environment.variables(accelerators.find("v5e:4x4"), "", {}, alone=True)  # each of the four hosts for itself
    assert alone["TPU_PROCESS_BOUNDS"] == "1,1,1" and alone["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1"


@pytest.mark.slow
def test_training_on_two_processes_of_this_machine(tmp_path):
    """The command as a user gives it: a job of two hosts that train one model."""
    from tests.launch.test_train import write_clips

    values = {"system.d_ff": 8, "data.dir": write_clips(tmp_path / "clips").dir, "data.batch_size": 2, "data.segment": 16,
              "mesh.data": 2, "train.steps": 2, "train.checkpoint_every": 2, "train.evaluate_every": 0, "train.log_every": 1,
              "train.peak_flops": 1e11}
    done = run_submit("--target=local", "--processes=2", "--devices=1", "--env=XLA_FLAGS=--xla_backend_optimization_level=0",
                      "--config=configs/head_vae.py", "--seed=3", "--name=walk",
                      f"--workdir={tmp_path / 'run'}", f"--submissions={tmp_path}",
                      *(f"--config.{k}={v}" for k, v in values.items()))
    assert done.returncode == 0, done.stderr + done.stdout
    steps = [r["step"] for r in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
             if r["kind"] == "train"]
    assert steps == [1, 2] and "mesh: data 2" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 3
    assert "mesh: data 2" not in (tmp_path / "walk" / "walk" / "process-1.log").read_text()  # host 0 speaks for both
