"""Jobs on clusters: what is written for each kind of them, to the letter. test_submit_scripts.py
runs it.

After a change that is meant: AVJAX_UPDATE_GOLDEN=1 python -m pytest tests/launch/test_submit.py,
and read the difference.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import types

import pytest
import yaml
from ml_collections import ConfigDict

from avjax.errors import UserError
from launch import submit, sweeps, targets
from launch.targets import accelerators, environment, jobs, packaging
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
PLACE = targets.Place(revision="0123456789ab", folder="/shared/me/submissions/demo",
                      cwd="/shared/me")
CONFIG = "configs/avflow_released.py"
DATA = "--config.data.dir=/data/features"


def make(kind="train", *, config=CONFIG, workdir="gs://bucket/avflow", name=None, seed=None,
         sweep=(), env=(), overrides=(),
         rest=(), place=PLACE):
    args = types.SimpleNamespace(config=config, workdir=workdir, name=name, seed=seed,
                                 sweep=list(sweep), env=list(env))
    overrides = [DATA, *overrides] if kind in jobs.WITH_CONFIG else list(overrides)
    return jobs.make(kind, args, overrides, list(rest), place.accelerator, place.slices)


def place(topology, **values):
    return dataclasses.replace(PLACE, accelerator=accelerators.find(topology), **values)


def case(name):
    """(target, jobs, place) of a golden file."""
    if name == "gke_multislice":
        where = place("v5e:16x16", slices=2, image="registry/avjax", extras=("tpu", "gs"),
                      cluster="context", queue="team",
                      namespace="ml", spot=True, mount="gs://bucket:/data")
        return "gke", make(place=where, seed=7, overrides=["--config.train.steps=1000"],
                           env=["TPU_STDERR_LOG_LEVEL=0"]), where
    if name == "gke_gpu":
        where = place("h100:8", slices=2, image="registry/avjax", extras=("cuda", "gs"),
                      service_account="trainer",
                      mount="datasets:/data,/mnt/disks/ssd0:/local")
        return "gke", make(place=where, rest=["--config.train.local_dir=/local"]), where
    if name == "gke_evaluate":
        where = place("v5e:2x2", image="registry/avjax", extras=("tpu", "gs"))
        return "gke", make("evaluate", place=where, rest=["--split=valid"]), where
    if name == "xpk":
        where = place("v5p:4x4x8", image="registry/avjax", extras=("tpu", "gs"), cluster="cluster",
                      project="project",
                      zone="us-east5-a", reservation="reserved")
        return "xpk", make(place=where), where
    if name == "tpu_vm":
        where = place("v5e:4x4", slices=2, zone="us-west4-a", project="project", spot=True,
                      extras=("tpu", "gs"))
        return "tpu_vm", make(place=where, name="demo"), where
    if name == "slurm_sweep":
        where = place("h100:8", slices=2, queue="gpu", account="lab", time="24:00:00",
                      setup=". /shared/me/venv/bin/activate",
                      cpus_per_task=96)
        sweep = ["config.optimizer.learning_rate=1e-4,3e-4", "config.seed=0,1"]
        return "slurm", make(place=where, workdir="runs/avflow", name="avflow", sweep=sweep), where
    where = place("cpu:4", setup="module load python")
    return "slurm", make("extract", config=None, workdir=None, name="talker-features", place=where,
                         rest=["--features=talker", "--clips=data/clips",
                               "--out=data/features"]), where


@pytest.mark.parametrize("name", ["gke_multislice", "gke_gpu", "gke_evaluate", "xpk", "tpu_vm",
                                  "slurm_sweep", "slurm_extract"])
def test_what_is_submitted_is_the_golden_text(name):
    target, made, where = case(name)
    submission = targets.load(target).render(made, where)
    commands = (packaging.pack(pathlib.Path("/home/me/avjax"), where.revision),
                *submission.commands)
    text = submit.show(submission, commands, pathlib.Path(where.folder))
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("AVJAX_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), \
        f"if this is meant: AVJAX_UPDATE_GOLDEN=1, and read the change of {file}"
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
    assert slice_job["replicas"] == 2 and job["parallelism"] == job["completions"] == 64 and job[
        "backoffLimit"] == 0
    assert container["resources"]["limits"]["google.com/tpu"] * 64 * 2 == 512
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert spec["network"]["enableDNSHostnames"] and pod["restartPolicy"] == "Never"
    # 75 and signals start everything again, errors do not
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["operator"] == "In" and codes["containerName"] == container["name"]
    assert set(codes["values"]) >= {1, 2} and not {75, 134, 137, 143} & set(codes["values"])
    assert {rule["onJobFailureReasons"][0]: rule["action"]
            for rule in spec["failurePolicy"]["rules"]} == {
        "PodFailurePolicy": "FailJobSet", "BackoffLimitExceeded": "RestartJobSet"}
    assert spec["failurePolicy"]["maxRestarts"] == where.max_restarts
    assert "--config.seed=7" in container["command"] and "--config.dcn.data=2" in container[
        "command"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["TPU_STDERR_LOG_LEVEL"] == "0" and variables[
        "JAX_COMPILATION_CACHE_DIR"].startswith("gs://bucket/avflow/")
    assert all(isinstance(value, str) for value in variables.values())


def test_gpu_pods_are_told_their_peers():
    _, made, where = case("gke_gpu")
    spec = targets.load("gke").manifest(made[0], where)["spec"]
    [group] = spec["replicatedJobs"]
    [container] = group["template"]["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    name = made[0].name
    assert variables["JAX_COORDINATOR_ADDRESS"][
        "value"] == f"{name}-{group['name']}-0-0.{spec['network']['subdomain']}:8482"
    assert variables["JAX_NUM_PROCESSES"]["value"] == "2" == str(
        group["template"]["spec"]["completions"])
    assert "completion-index" in variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_pods_have_what_is_mounted_and_room_for_loaders():
    def pod(case_name):
        _, made, where = case(case_name)
        template = targets.load("gke").manifest(made[0],
                                                where)["spec"]["replicatedJobs"][0]["template"][
                                                    "spec"]["template"]
        volumes = {volume.pop("name"): volume for volume in template["spec"]["volumes"]}
        [container] = template["spec"]["containers"]
        return template, {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}

    template, at = pod("gke_gpu")
    assert at == {"/dev/shm": {"emptyDir": {"medium": "Memory"}},
                  "/data": {"persistentVolumeClaim": {"claimName": "datasets"}},
                  "/local": {"hostPath": {"path": "/mnt/disks/ssd0", "type": "DirectoryOrCreate"}}}
    assert "metadata" not in template
    template, at = pod("gke_multislice")
    assert at["/data"]["csi"]["volumeAttributes"]["bucketName"] == "bucket"
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    for wrong in ("datasets", "/data", "gs://bucket", "datasets:data", "Claim:/data"):
        with pytest.raises(UserError, match="not a mount"):
            targets.load("gke").manifest(make()[0],
                                         place("v5e:2x2", image="i", mount=f"a:/a,{wrong}"))


@pytest.mark.parametrize("topology, hosts, per_host, kind, label", [
    ("v5e:16x16", 64, 4, "v5litepod-256", "tpu-v5-lite-podslice"),
    ("v5e:1x1", 1, 1, "v5litepod-1", "tpu-v5-lite-podslice"),
    ("v4:4x4x4", 16, 4, "v4-128", "tpu-v4-podslice"), ("v5p:2x2x1", 1, 4, "v5p-8", "tpu-v5p-slice"),
    ("v6e:8x8", 16, 4, "v6e-64", "tpu-v6e-slice"), ("tpu7x:2x2x2", 2, 4, "tpu7x-16", "tpu7x"),
    ("h100:8", 1, 8, "", "nvidia-h100-80gb"), ("cpu:3", 3, 1, "", "")])
def test_names_of_accelerators(topology, hosts, per_host, kind, label):
    found = accelerators.find(topology)
    assert (found.hosts, found.chips_per_host, found.accelerator_type,
            found.label) == (hosts, per_host, kind, label)


def test_sweep_is_the_product_and_jobs_do_not_share_a_workdir():
    made = make(name="avflow", sweep=["config.optimizer.learning_rate=1e-4,3e-4",
                                      "config.seed=0,1,2"])
    assert len({job.name for job in made}) == len({job.arguments for job in made}) == 6
    workdirs = [next(a for a in job.arguments if a.startswith("--workdir=")) for job in made]
    assert workdirs[4] == "--workdir=gs://bucket/avflow/learning_rate=3e-4_seed=1" and len(
        set(workdirs)) == 6
    assert made[4].name == "avflow-learning-rate-3e-4-seed-1"
    assert {"--config.optimizer.learning_rate=3e-4", "--config.seed=1"} <= set(made[4].arguments)
    # one program, compiled once
    assert len({job.environment["JAX_COMPILATION_CACHE_DIR"] for job in made}) == 1
    long = make(name="a-name-that-is-rather-long-already",
                sweep=["config.optimizer.learning_rate=1e-4,3e-4"])
    assert [job.name for job in long] == [f"a-name-that-is-rather-long-already-00{i}"
                                          for i in (0, 1)]
    # both would be a-x-1
    assert [p.name("a") for p in sweeps.points(["x=-1,1"])] == ["a-000", "a-001"]
    assert [p.overrides[0] for p in sweeps.points(["config.evaluate.splits=('a','b'),('c',)"])] == [
        "--config.evaluate.splits=('a','b')", "--config.evaluate.splits=('c',)"]


def test_generation_takes_the_hosts_as_workers():
    [job] = make("generate", config=None, place=place("h100:8", slices=2),
                 rest=["--requests=/data/requests.jsonl", "--seed=1"])
    assert job.command == ("python", "-m", "launch.generate", "--workdir=gs://bucket/avflow",
                           "--requests=/data/requests.jsonl", "--seed=1")
    assert {"generate", "evaluate"} <= set(jobs.ALONE)


@pytest.mark.parametrize("given, message", [
    (dict(sweep=["config.seed=0,0"]), "not a sweep"), (dict(sweep=["config.seed"]), "not a sweep"),
    (dict(sweep=["config.seed=0", "seed=1"]), "swept twice"),
    (dict(sweep=["config.sed=0,1"]), "nearest valid key: seed"),
    (dict(overrides=["--config.train.steps=many"]), "wrong type.*many"),
    (dict(overrides=["--config.data.batch_size=0"]), "out of range.*config.data.batch_size"),
    (dict(workdir=None), "no workdir"), (dict(config=None), "no config"),
    (dict(name="Not A Name"), "do not take this name"),
    (dict(kind="extract"), "--config means nothing"),
    (dict(kind="generate", config=None), "no requests given.*-- --requests=FILE"),
    (dict(kind="generate", config=None, workdir=None), "no workdir given.*--job=generate"),
    (dict(env=["X"]), "not a variable"),
    (dict(config="configs/none.py"), "no such config file"),
    (dict(overrides=["--config.data.dir=gs://b/features"]),
     "read from disks.*found: gs://b/features.*--mount=gs://BUCKET:/data"),
    (dict(overrides=["--config.data.dir={workdir}/features"]),
     "read from disks.*found: gs://bucket/avflow/features"),
    (dict(overrides=["--config.data.dir="]), "no data given")])
def test_mistakes_are_one_line(given, message):
    with pytest.raises(UserError, match=message):
        make(**given)


def run_submit(*arguments, path=None, cwd=ROOT):
    env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"PATH": str(path)} if path else {})
    return commands.run("submit", *arguments, cwd=cwd, env=env)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_as_a_command(tmp_path):
    """A dry run prints all and touches nothing; a missing tool is one line."""
    common = (f"--config={CONFIG}", f"--submissions={tmp_path}/s", "--uncommitted",
              "--topology=v5e:4x4", "--image=r/a",
              "--workdir=gs://b/r")
    done = run_submit("--target=gke", "--dry_run", *common, "--config.train.steps=5",
                      "--mount=d:/data", "--", DATA)
    assert done.returncode == 0, done.stderr
    assert "google.com/tpu: 4" in done.stdout and "docker push r/a:" in done.stdout
    assert "- --config.train.steps=5" in done.stdout
    assert f"- {DATA}" in done.stdout
    assert "claimName: d" in done.stdout
    assert not (tmp_path / "s").exists()
    (tmp_path / "bin").mkdir()
    for tool in ("git", "bash"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    done = run_submit("--target=xpk", "--cluster=c", *common, DATA, path=tmp_path / "bin")
    assert done.returncode == 2 and done.stderr.startswith(
        "error: docker is not installed here"), done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "s").exists()


@pytest.mark.parametrize("target, given, message", [
    ("slurm", {}, "no such machines.*gpu or cpu.*v5e:4x4"), ("gke", {}, "gke needs --image"),
    ("xpk", {}, "xpk needs --cluster"), ("gke", {"topology": ""}, "gke needs --topology"),
    ("gke", {"topology": "v5e:3x3"}, "no such slice"),
    ("gke", {"topology": "v9:1"}, "unknown chip"),
    ("gke", {"job": "evaluate", "slices": 2}, "slices mean nothing"),
    ("slurm", {"topology": "cpu:x"}, "not a number of hosts"),
    ("xpk", {"queue": "team"}, "--queue means nothing there.*it is for gke, slurm"),
    ("xpk", {"service_account": "me"}, "--service_account means nothing there"),
    ("xpk", {"namespace": "ml"}, "it is for gke"),
    ("slurm", {"topology": "cpu:2", "mount": "d:/data"}, "--mount means nothing there.*it is for "
                                                         "gke")])
def test_places_that_there_are_none_of(tmp_path, monkeypatch, target, given, message):
    monkeypatch.setattr(packaging, "revision", lambda root, uncommitted: "0123456789ab")
    args = types.SimpleNamespace(**{f.name: f.default for f in dataclasses.fields(targets.Place)
                                    if f.name in submit.HELP},
                                 workdir="gs://b/r", uncommitted=True, dry_run=True)
    vars(args).update({"topology": "v5e:4x4", "slices": 1, "job": "train"} | given)
    with pytest.raises(UserError, match=message):
        submit.make_place(target, args, None, tmp_path, ROOT)


def test_an_experiment_says_where_it_runs(monkeypatch):
    monkeypatch.setattr(packaging, "revision", lambda root, uncommitted: "0123456789ab")
    args = types.SimpleNamespace(**{f.name: f.default for f in dataclasses.fields(targets.Place)
                                    if f.name in submit.HELP},
                                 workdir="gs://b/r", uncommitted=True, dry_run=True, topology=None,
                                 slices=None, job="train")
    args.image = "r/a"
    config = ConfigDict({"plan": {"topology": "v5p:4x4x8", "slices": 2}})
    where = submit.make_place("gke", args, config, ROOT, ROOT)
    assert (where.accelerator.topology, where.slices,
            where.extras) == ("v5p:4x4x8", 2, ("tpu", "gs"))
    args.job = "evaluate"
    where = submit.make_place("gke", args, config, ROOT, ROOT)
    assert (where.accelerator.topology, where.accelerator.hosts,
            where.slices) == ("v5p:2x2x1", 1, 1)
    args.topology = "v5e:4x4"  # more hosts, where they are asked for
    assert submit.make_place("gke", args, config, ROOT, ROOT).accelerator.hosts == 4


def test_remote_hosts_see_the_packed_tree_only(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "configs")
    assert submit.inside("avflow_released.py", "gke", ROOT) == CONFIG
    (tmp_path / "mine.py").touch()
    assert submit.inside(f"{tmp_path}/mine.py:small", "slurm", ROOT) == f"{tmp_path}/mine.py:small"
    with pytest.raises(UserError, match="not part of the code that is packed"):
        submit.inside(f"{tmp_path}/mine.py", "gke", ROOT)


def test_variables_are_what_is_given_last():
    chosen = environment.variables(accelerators.find("h100:8"), "", {"XLA_FLAGS": "--mine"})
    assert chosen["XLA_FLAGS"] == "--mine" and "JAX_COMPILATION_CACHE_DIR" not in chosen
    # each of the four hosts for itself
    alone = environment.variables(accelerators.find("v5e:4x4"), "", {}, alone=True)
    assert alone["TPU_PROCESS_BOUNDS"] == "1,1,1" and alone[
        "TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1"
