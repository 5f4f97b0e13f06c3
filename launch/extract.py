"""Makes features of clips, for one family of systems:
avjax extract --clips=DIR --out=DIR [--features=talker] [--tokens=units] [...]

Prints the dataset's schema, splits and durations. The same command again goes on with a job that
was killed, and makes the features again when the clips have changed. The flags are the options of
the families of features (data_pipelines/features); one of another family is an error.

--check=FILE compares units with published ones and says how many agree. The file has a recording a
line: ID|1 2 3, ID|units|durations, or {"audio": "ID.wav", "hubert": "1 2 3"}.

Several processes, on machines that see the same folders, share the work: --processes=N,
--shard=I/N, or started once a host; see launch/workers.py.
"""

from absl import flags

from data_pipelines import extract
from data_pipelines.features.units import published
from data_pipelines.store import inspect
from launch import flags as launch_flags
from launch import options, workers


def families() -> dict:
    """{family: its function}."""
    return {name: extract.extractor(name) for name in extract.FEATURES}


def define_flags() -> None:
    """--clips, --out, --features, who shares the work, and the options of all families."""
    workers.define_flags()
    flags.DEFINE_string("clips", None, "Clip dataset made by avjax prepare.", required=True)
    flags.DEFINE_string("out", None, "Feature dataset to make.", required=True)
    flags.DEFINE_enum("features", "avflow", extract.FEATURES, "Which systems are to read them.")
    flags.DEFINE_string("check", None, "File of published units, to compare those made here with.")
    options.define(families())
    flags.DEFINE_alias("weights", "ctc")  # its name in earlier versions


def main(argv):
    del argv
    args = flags.FLAGS
    given = options.given(families(), args.features, "features")
    known = published.read(args.check) if args.check else None
    workers.spread("launch.extract", args.out)
    out = workers.part_of(args.out, args.shard)
    dataset = extract.extract(args.clips, out, features=args.features, **given)
    if dataset is not None:
        print(inspect.text(inspect.summary(dataset)))
        if known:
            print(published.compared(dataset, known))
    else:
        workers.end(out, args.shard)


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
