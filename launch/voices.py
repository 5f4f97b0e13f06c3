"""Tells how well kinds of voices tell speakers apart, on your own clips:
avjax voices --clips=DIR [--voice=statistics --voice=ge2e|FILE] [--seconds=5] [--split=SPLIT]
[--json]

Cosines between the voices of pieces of one recording, of recordings of one speaker and of different
speakers, and how often the former are the higher. Statistics are z-scored on these same pieces.
"""

import json

from absl import flags

from avjax.encoders import voices as kinds
from data_pipelines.store import dataset as store
from launch import flags as launch_flags
from launch.jobs.recordings import voices


def define_flags() -> None:
    """--clips, --split, --voice, --seconds, --most, --json."""
    flags.DEFINE_multi_string("clips", None, "Clip dataset made by avjax prepare; may be "
                              "repeated, to compare speakers across.", required=True)
    flags.DEFINE_string("split", None, "One split; without it, all together.")
    flags.DEFINE_multi_string("voice", list(kinds.KINDS), "A kind of voices: "
                              f"{', '.join(kinds.KINDS)}, or a file of WavLM with ECAPA-TDNN; may "
                              "be repeated.")
    flags.DEFINE_float("seconds", 5.0, "Least length of the pieces that recordings are cut into.",
                       lower_bound=kinds.SHORTEST)
    flags.DEFINE_integer("most", 500, "Pieces that are compared, the first.", lower_bound=2)
    flags.DEFINE_bool("json", False, "Print the report as JSON.")


def main(argv):
    del argv
    args = flags.FLAGS
    report = voices.compare([store.open_dataset(path) for path in args.clips], args.split,
                            dict.fromkeys(args.voice), args.seconds, args.most)
    print(json.dumps(report, indent=1) if args.json else voices.text(report))


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
