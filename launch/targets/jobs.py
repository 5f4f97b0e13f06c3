"""The jobs to submit: of a config, or of a sweep over it, fully described by their command
lines."""

from avjax.errors import UserError
from launch import data, overrides, schema, sweeps
from launch import flags as launch_flags
from launch.targets import Job, environment

KINDS = ("train", "evaluate", "generate", "extract", "prepare")
WITH_CONFIG = ("train", "evaluate")
# Whose hosts share only a folder; one, unless --topology says more.
ALONE = ("evaluate", "generate", "extract", "prepare")
# Folder in the workdir (of the whole sweep), so that a restart does not compile again.
CACHE = "compilation_cache"


def make(kind: str, args, changed: list[str], rest: list[str], accelerator, slices: int, *,
         cached: bool = True) -> list[Job]:
    """The jobs of a sweep (one without).

    Args:
      kind: one of KINDS.
      args: config, workdir, name, seed, sweep and env as `launch.submit` takes them.
      changed: "--config.key=value".
      rest: further arguments of the job.
      accelerator, slices: where it will run.
      cached: compiled programs are kept in the workdir, else where each host keeps them.

    Raises:
      UserError: no config or workdir, a flag without meaning for this kind, unknown keys, invalid
        names, data that no host could read.
    """
    cache = f"{args.workdir.rstrip('/')}/{CACHE}" if args.workdir and cached else ""
    variables = environment.variables(accelerator, cache,
                                      dict(_variable(text) for text in args.env),
                                      alone=kind in ALONE)
    if kind not in WITH_CONFIG:
        for flag, value in (("config", args.config), ("sweep", args.sweep), ("seed", args.seed),
                            ("config.*", changed)):
            if value not in (None, []):
                raise UserError(f"--{flag} means nothing here", where=f"--job={kind}",
                                hint="arguments of the job go after --")
        sweeps.check_name(args.name or kind)
        where = _workdir_of_generation(args.workdir, rest) if kind == "generate" else ()
        return [Job(args.name or kind, f"launch.{kind}", (*where, *rest), variables)]
    for flag, value, example in (("config", args.config, "configs/X.py"),
                                 ("workdir", args.workdir, "gs://BUCKET/RUN")):
        if not value:
            raise UserError(f"no {flag} given", where=f"--job={kind}",
                            expected=f"--{flag}={example}")
    seed = [] if args.seed is None else [f"--config.seed={args.seed}"]
    return [_job(kind, args, [*changed, *seed, *point.overrides], rest, point, slices, variables)
            for point in sweeps.points(args.sweep)]


def _job(kind: str, args, changed: list[str], rest: list[str], point: sweeps.Point, slices: int,
         variables) -> Job:
    if point.variant and ":" in args.config:
        raise UserError("the config's variant is given twice", where="--config", found=args.config,
                        expected="FILE.py alone", hint=f"--sweep={sweeps.VARIANT}=... names it")
    path = point.config(args.config)
    config = read_config(path, changed)
    if slices > 1 and "dcn" in config and config.dcn.data == config.dcn.fsdp == 1:
        # else there would be more devices than the mesh has
        changed = [*changed, f"--config.dcn.data={slices}"]
    if not any(text.startswith("--config.seed=") for text in changed):
        changed = [*changed, f"--config.seed={config.seed}"]
    workdir = point.workdir(args.workdir)
    for field, folder in data.folders(config.data):
        _check_data(folder.replace("{workdir}", workdir), field)
    name = point.name(args.name or base_name(kind, config))
    flag = "--workdir" if kind == "train" else "--checkpoint"
    sweeps.check_name(name)
    where = [] if any(text.split("=")[0] == flag for text in rest) else [f"{flag}={workdir}"]
    return Job(name, f"launch.{kind}", (f"--config={path}", *where, *changed, *rest),
               variables, workdir=workdir, values=point.values)


def _workdir_of_generation(workdir: str | None, rest: list[str]) -> tuple[str, ...]:
    """--workdir as launch.generate takes it. UserError: no workdir, or no file of requests, of
    which every host generates its share."""
    if not workdir:
        raise UserError("no workdir given", where="--job=generate",
                        expected="--workdir=gs://BUCKET/RUN")
    if not any(text.partition("=")[0] == "--requests" for text in rest):
        raise UserError("no requests given", where="--job=generate",
                        expected="-- --requests=FILE, which every host sees")
    return (f"--workdir={workdir}",)


def _check_data(folder: str, field: str) -> None:
    """Raises UserError for data that the job could not read on its machines."""
    if not folder or "://" in folder:
        raise UserError("data is read from disks" if folder else "no data given",
                        where=field, found=folder,
                        expected="a folder that every host sees",
                        hint="--config.data.dir=DIR of a file system that all hosts "
                        "have; of a bucket: --target=gke --mount=gs://BUCKET:/data "
                        "--config.data.dir=/data/FEATURES")


def base_name(kind: str, config) -> str:
    """A job's name where none is given."""
    return kind if config is None else sweeps.slug(config.name if kind == "train"
                                                   else f"{config.name}-{kind}")


def read_config(path: str, changed: list[str]):
    """The config as the job will read it. UserError: unknown keys, values that cannot be."""
    config = launch_flags.load_config(path)
    _, given = overrides.split(changed)
    overrides.apply(config, given)
    schema.validate(config)
    return config


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError("not a variable", where="--env", expected="NAME=VALUE", found=repr(text))
    return name, value
