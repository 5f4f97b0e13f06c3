"""Makes clips of raw media: avjax prepare --dataset=clips --source=DIR --out=DIR

`--dataset` is a folder of data_pipelines/ingest; the flags are the options of all of them, and one
of another dataset is an error. Clips that have changed in --source since are taken in (--dataset=
clips). avjax extract makes features of clips.

`--runner=beam [--beam_options="--runner=FlinkRunner --flink_master=host:8081"]` lets Apache Beam's
workers do the work, by default this machine's cores; they have to see the same folders. A dataset
that is made in parts (Talker's, named corpora) can also be shared by several processes,
--processes=N, --shard=I/N, or started once a host; see launch/workers.py. The dataset is the same.
"""

import pathlib

from absl import flags

from avjax.errors import UserError
from data_pipelines import prepare
from data_pipelines.ingest.common import corpus
from data_pipelines.store import beam
from data_pipelines.store.merge import Part
from data_pipelines.store.schema import MENDED_FILE
from launch import flags as launch_flags
from launch import options, workers


def functions() -> dict:
    """{dataset: its function}."""
    return {name: prepare.load(name).prepare for name in prepare.names()}


def define_flags() -> None:
    """--dataset, --source, --out, who does the work, and the options of all datasets."""
    flags.DEFINE_string("dataset", None, f"What is brought in: {', '.join(prepare.names())}.",
                        required=True)
    flags.DEFINE_string("source", None, "Folder of the raw media.")
    flags.DEFINE_string("out", None, "Folder to make clips in.", required=True)
    flags.DEFINE_enum("runner", "here", ("here", "beam"), "Who does the work.")
    flags.DEFINE_string("beam_options", "", "Options of Apache Beam, for --runner=beam.")
    flags.DEFINE_integer("parts", 64, "Into how many a dataset is cut for Beam: several times the "
                         "workers.", lower_bound=1)
    workers.define_flags()
    options.define(functions())
    for name in sorted({name for d in prepare.names() for name in prepare.load(d).retired}):
        flags.DEFINE_string(name, None, "Is an option of avjax extract.")


def main(argv):
    del argv
    args = flags.FLAGS
    kind = prepare.load(args.dataset)
    values = {"source": args.source, "out": args.out}
    values |= {name: args[name].value for name in kind.retired}
    values = {name: value for name, value in values.items() if value is not None}
    values |= options.given(functions(), args.dataset, "dataset")
    if args.runner == "beam":
        if args.processes or args.shard:
            raise UserError("Beam has its own workers", where="--runner=beam",
                            hint="leave out --processes and --shard")
        prepare.prepare(args.dataset, **values, parallel=beam.Beam(args.beam_options, args.parts))
        return
    out = workers.part_of(args.out, args.shard)
    if not kind.in_parts and (args.processes or isinstance(out, Part)):
        raise UserError(f"--dataset={args.dataset} is made by one process", where="command line",
                        expected="neither --processes nor --shard, and one host",
                        hint="--runner=beam, whose workers help that process")
    workers.spread("launch.prepare", args.out, _tell)
    made = prepare.prepare(args.dataset, **(values | {"out": out}))
    if made is None and isinstance(out, Part):
        workers.end(out, args.shard)


def _tell(out: pathlib.Path) -> None:
    """What several processes made: of a named corpus, what it has and lacks."""
    if (out / MENDED_FILE).is_file():
        corpus.told(out)
    else:
        print(f"written: {out}")


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
