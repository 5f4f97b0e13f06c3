"""Submits jobs to clusters:

    avjax submit --target=gke --config=configs/X.py --topology=v5e:16x16
        --workdir=gs://BUCKET/RUN [--dry_run]

    --target=xpk|gke|tpu_vm|slurm|local
    --job=train|evaluate|generate|extract|prepare
    --slices=2 --name=... --seed=...
    --sweep=config.optimizer.learning_rate=1e-4,3e-4    (one job per combination)
    --sweep=config=highway,separate     (variants: --config=FILE.py:highway, FILE.py:separate)
    --config.key=value, and after `--` further arguments of the job

Writes manifests and scripts to --submissions/NAME, packs the code and runs the cluster's own tool;
--dry_run prints all of it and touches nothing. `--target=local --processes=4` runs the job here, as
if every process were a host. A sweep is recorded in WORKDIR/sweep.json; here its members run one
after the other, given again only those that are not done, and `avjax collect` ends it. Exit codes:
0 done (local: the job's), 2 an error that the user can correct.
"""

import dataclasses
import pathlib
import shlex
import shutil
import subprocess
import sys

from absl import flags

from avjax.errors import UserError
from avjax.storage import lock, paths
from launch import cli, sweep_record, targets
from launch import flags as launch_flags
from launch.overrides import split
from launch.targets import accelerators, jobs, packaging

REMOTE = ("gke", "xpk", "tpu_vm")  # their hosts see nothing of this machine's
OWN = {"spot": flags.DEFINE_bool, "max_restarts": flags.DEFINE_integer,
       "grace": flags.DEFINE_integer, "cpus_per_task": flags.DEFINE_integer,
       "processes": flags.DEFINE_integer, "devices": flags.DEFINE_integer}
HELP = {
    "max_restarts": "How often a job that was stopped (code 75 or a signal's) is started again.",
    "grace": "Seconds between SIGTERM and SIGKILL: what a save may take.",
    "project": "Cloud project.", "zone": "Cloud zone.",
    "cluster": "xpk: the cluster. gke: kubectl's context.",
    "image": "Image to build and push, without tag: REGISTRY/NAME.",
    "queue": "gke: Kueue's local queue. slurm: partition.",
    "reservation": "Of machines.", "spot": "Machines that may be taken away.",
    "service_account": "That the job runs as.",
    "namespace": "gke: Kubernetes namespace.",
    "mount": "gke: WHAT:/path[,...] in every pod. WHAT is a PersistentVolumeClaim's name, "
             "gs://BUCKET (to read) or a folder of the node, which outlives the pods (for "
             "config.train.local_dir).",
    "runtime_version": "tpu_vm: default by the kind of TPU.",
    "account": "slurm: who is charged.", "time": "slurm: limit, e.g. 24:00:00.",
    "setup": "slurm: a line of shell before the job; without it the job runs in this Python.",
    "cpus_per_task": "slurm.", "processes": "local: how many; each has its share of the GPUs.",
    "devices": "local: fake CPU devices of each process."}


def define_flags() -> None:
    """Only as a program."""
    flags.DEFINE_enum("target", None, targets.NAMES, "Where to run.", required=True)
    flags.DEFINE_enum("job", "train", jobs.KINDS, "Which launcher.")
    flags.DEFINE_string("config", None, "Experiment file of train and evaluate.")
    flags.DEFINE_string("topology", None, f"Machines: {accelerators.EXAMPLES}; default "
                                          "config.plan.topology.")
    flags.DEFINE_integer("slices", None, "TPU slices (or so many times the machines); default "
                                         "config.plan.slices or 1.",
                         lower_bound=1)
    flags.DEFINE_string("workdir", None, "Folder of the run, which all hosts see: gs://..., or of "
                                         "a shared file system.")
    flags.DEFINE_string("name", None, "Of the job; default from the config.")
    flags.DEFINE_integer("seed", None, "config.seed; default the config's.")
    flags.DEFINE_multi_string("sweep", [], "config.KEY=VALUE,VALUE,..., or config=VARIANT,...; "
                              "several make a product.")
    flags.DEFINE_multi_string("env", [], "NAME=VALUE for the job.")
    flags.DEFINE_bool("uncommitted", False, "Pack the files as they lie, with changes that are not "
                                            "committed.")
    flags.DEFINE_bool("dry_run", False, "Print, and touch nothing.")
    flags.DEFINE_string("submissions", "runs/submissions", "Folder for manifests, scripts and "
                                                           "local logs.")
    defaults = targets.Place()
    for name, text in HELP.items():
        OWN.get(name, flags.DEFINE_string)(name, getattr(defaults, name), text)


def make_place(target: str, args, config, folder: pathlib.Path,
               root: pathlib.Path) -> targets.Place:
    """What the target needs, checked. UserError names what is missing, and what means nothing
    there."""
    plan = config.get("plan", {}) if config else {}
    topology = args.topology or (plan.get("topology", "") if target != "local" else "")
    if topology and not args.topology and args.job in jobs.ALONE:
        topology = accelerators.one_host(topology)
    values = {name: getattr(args, name) for name in HELP}
    for name, value in values.items():
        if value != getattr(targets.Place, name) and name not in _taken(target):
            raise UserError(f"--{name} means nothing there", where=f"--target={target}",
                            found=f"--{name}={value}", hint="leave it out; it is for "
                            + ", ".join(t for t in targets.NAMES if name in _taken(t)))
    module, accelerator = targets.load(target), accelerators.find(topology) if topology else None
    if accelerator and accelerator.platform not in module.PLATFORMS:
        raise UserError("this target has no such machines", where=f"--target={target}",
                        found=topology, expected=" or ".join(module.PLATFORMS),
                        hint="another --topology or --target")
    extras = [] if accelerator is None else {"tpu": ["tpu"],
                                             "gpu": ["cuda"]}.get(accelerator.platform, [])
    extras += [extra for scheme, extra in (("gs://", "gs"), ("s3://", "s3"))
               if (args.workdir or "").startswith(scheme)]
    planned = topology and not args.topology and args.job not in jobs.ALONE
    slices = args.slices or (int(plan.get("slices", 1)) if planned else 1)
    if accelerator and accelerator.platform == "tpu" and args.job in jobs.ALONE and slices > 1:
        raise UserError("slices mean nothing to hosts that work alone", where="--slices",
                        found=str(slices), expected="1",
                        hint="a larger slice, or --topology=cpu:N")
    revision = "" if target == "local" else packaging.revision(root,
                                                               args.uncommitted or args.dry_run)
    place = targets.Place(accelerator, slices, revision, tuple(extras), **values,
                          folder=str(folder), cwd=str(pathlib.Path.cwd()))
    for need in module.NEEDS:
        if not getattr(place, need):
            flag = "topology" if need == "accelerator" else need
            raise UserError(f"--target={target} needs --{flag}", where="command line",
                            expected=f"--{flag}=...",
                            hint=HELP.get(flag, f"for instance {accelerators.EXAMPLES}"))
    return place


def _taken(target: str) -> tuple[str, ...]:
    module = targets.load(target)
    return (*module.NEEDS, *module.OPTIONS)


def submit(target: str, made: list[targets.Job], place: targets.Place, root: pathlib.Path,
           dry_run: bool, record: sweep_record.Record | None = None) -> int:
    """Writes, packs and submits; or prints what would be done. Returns an exit code. UserError: a
    tool is missing or fails."""
    module, folder = targets.load(target), pathlib.Path(place.folder)
    submission = module.render(made, place)
    commands = submission.commands if target == "local" else (packaging.pack(root, place.revision),
                                                              *submission.commands)
    if dry_run:
        print(show(submission, commands, folder))
        return 0
    if target == "local":
        return module.run(made, place, record)
    for tool in dict.fromkeys(command[0] for command in commands):
        if not shutil.which(tool):
            raise UserError(f"{tool} is not installed here", where=f"--target={target}",
                            expected=f"{tool} on the PATH",
                            hint="install it, or --dry_run and run the commands where it is")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in submission.files.items():
        (folder / name).write_text(text)
    for command in commands:
        print(f"+ {shlex.join(command)}", file=sys.stderr, flush=True)
        if code := subprocess.run(command, cwd=folder).returncode:
            raise UserError(f"{command[0]} failed with code {code}", where=str(folder),
                            found=shlex.join(command), hint="its own message is above; the files "
                                                            "lie in that folder")
    print(submission.after)
    return 0


def inside(path: str, target: str, root: pathlib.Path) -> str:
    """The config's path as the job will find it: in the packed tree, where it is packed. UserError:
    it is not."""
    name, colon, argument = path.partition(":")
    file = pathlib.Path(name).resolve()
    if target == "local" or not file.is_file():
        return path  # read_config finds it below the tree, or says that it is missing
    if file.is_relative_to(root):
        return f"{file.relative_to(root)}{colon}{argument}"
    if target in REMOTE:
        raise UserError("the config is not part of the code that is packed", where="--config",
                        found=str(file), expected=f"a file below {root}",
                        hint="put it into configs/")
    return f"{file}{colon}{argument}"


def show(submission: targets.Submission, commands, folder: pathlib.Path) -> str:
    """Files and commands as one text."""
    parts = [f"# {folder / name}\n{text}" for name, text in submission.files.items()]
    where = f"cd {folder}\n" if submission.files else ""
    parts.append("# commands\n" + where + "\n".join(map(shlex.join, commands)) + "\n")
    return "\n".join(parts + ([f"# afterwards\n{submission.after}\n"] if submission.after else []))


def split_arguments(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """(submit's own, "--config.key=value" overrides, what follows "--")."""
    end = argv.index("--") if "--" in argv else len(argv)
    own, changed = split(argv[:end])
    return own, [f"--config.{text}" for text in changed], argv[end + 1:]


def main(argv, overrides: list[str], rest: list[str],
         root: pathlib.Path = launch_flags.ROOT) -> int:
    del argv
    args = flags.FLAGS
    rest, more = split(rest)
    overrides = overrides + [f"--config.{text}" for text in more]
    config = None
    if args.config and args.job in jobs.WITH_CONFIG:
        args.config = inside(args.config, args.target, root)
        config = jobs.read_config(args.config, overrides)
    if args.target in REMOTE and args.workdir and not args.workdir.startswith(
        "/") and "://" not in args.workdir:
        raise UserError("the hosts do not see this machine's folders", where="--workdir",
                        found=args.workdir, expected="gs://BUCKET/RUN, or an absolute path that "
                                                     "they mount")
    base = args.name or jobs.base_name(args.job, config)
    place = make_place(args.target, args, config, pathlib.Path(args.submissions).absolute() / base,
                       root)
    made = jobs.make(args.job, args, overrides, rest, place.accelerator, place.slices,
                     cached=args.target != "local")
    if args.target == "slurm" and not place.setup:
        made = [dataclasses.replace(job, python=sys.executable) for job in made]
    if not args.sweep or args.dry_run:
        return submit(args.target, made, place, root, args.dry_run)
    # where this machine may not see the workdir, the record is kept beside the manifests
    away = args.target in REMOTE or paths.is_remote(args.workdir)
    home = paths.folder(place.folder if away else args.workdir)
    with lock.hold(home / ".sweep.lock", "the sweep in", home):
        record = sweep_record.Record(home, args.sweep, made)
        code = submit(args.target, made, place, root, False, record)
        if args.target == "local":
            print(record.summary(), file=sys.stderr, flush=True)
            subprocess.run([*cli.child("launch.collect"), f"--workdir={home}"])
    return code


if __name__ == "__main__":
    sys.argv, more, further = split_arguments(sys.argv)
    define_flags()
    launch_flags.run(lambda argv: main(argv, more, further), needs_config=False)
