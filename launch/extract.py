"""Clips -> features: python -m launch.extract --clips=DIR --out=DIR [--features=talker]
[--tokens=units] [...]

Prints the new dataset's schema, splits and durations. A job that was killed goes on where it was
when the same command is given again. The flags are the options of the families of features
(data_pipelines/features); one of another family is refused.

Several processes, on machines that see the same folders, share the work: --processes=N,
--shard=I/N, or started once a host; see launch/workers.py.
"""

from absl import flags

from avjax.errors import UserError
from data_pipelines import extract
from data_pipelines.store import inspect
from launch import flags as launch_flags
from launch import workers

RENAMED = {"mode": "resample"}  # options that go by another name here
KNOWN = {family: {RENAMED.get(name, name): name for name in extract.options(family)}
         for family in extract.FEATURES}
DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
          str: flags.DEFINE_string}


def define_flags() -> None:
    """--clips, --out, --features, who shares the work, and the options of all families."""
    workers.define_flags()
    flags.DEFINE_string("clips", None, "Clip dataset made by launch.prepare.", required=True)
    flags.DEFINE_string("out", None, "Feature dataset to make; must not exist.", required=True)
    flags.DEFINE_enum("features", "avflow", extract.FEATURES, "Which systems are to read them.")
    types, said = {}, {}
    for family in extract.FEATURES:
        for name, (kind, default, text) in extract.options(family).items():
            flag = RENAMED.get(name, name)
            if types.setdefault(flag, kind) is not kind:
                raise TypeError(f"option {name} has another type in {family} than elsewhere")
            said.setdefault(flag, []).append(f"{family}: {text}"
                                             + ("" if default is None else f" [{default}]"))
    for flag, kind in types.items():
        DEFINE[kind](flag, None, " ".join(said[flag]))


def main(argv):
    del argv
    args = flags.FLAGS
    workers.spread("launch.extract", args.out)
    features = flags.FLAGS.features
    own = KNOWN[features]
    for other in KNOWN.values():
        for flag in other:
            if flag not in own and flags.FLAGS[flag].present:
                raise UserError(f"--{flag} means nothing here", where=f"--features={features}",
                                expected=", ".join(f"--{name}" for name in own), found=f"--{flag}",
                                hint="leave it out, or pick the other --features")
    given = {name: flags.FLAGS[flag].value for flag, name in own.items()
             if flags.FLAGS[flag].value is not None}
    out = workers.part_of(args.out, args.shard)
    dataset = extract.extract(args.clips, out, features=features, **given)
    if dataset is not None:
        print(inspect.text(inspect.summary(dataset)))
    else:
        workers.end(out, args.shard)


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
