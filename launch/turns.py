"""Counts turns, pauses, gaps and overlaps of recorded conversations:
avjax turns --clips=DIR [--activity=energy --activity=neural] [--split=train] [--json]

By the clips' transcripts where they have times, and by each voice activity; side by side, with the
share of the time in which they agree. Events as in the dialogue benchmark (docs/metrics.md).
"""

import json

from absl import flags

from avjax.encoders.voice_activity import HELP, Detector
from data_pipelines.store import dataset as store
from launch import flags as launch_flags
from launch.jobs.recordings import turns


def define_flags() -> None:
    """--clips, --split, --activity, --json."""
    flags.DEFINE_string("clips", None, "Clip dataset made by avjax prepare.", required=True)
    flags.DEFINE_string("split", None, "One split; without it, each.")
    flags.DEFINE_multi_string("activity", ["energy"], f"What finds speech: {HELP}; may be "
                              "repeated.")
    flags.DEFINE_bool("json", False, "Print the report as JSON.")


def main(argv):
    del argv
    args = flags.FLAGS
    detectors = {name: Detector.parse(name) for name in args.activity}
    clips = store.open_dataset(args.clips)
    reports = {split: turns.count(clips, split, detectors)
               for split in ([args.split] if args.split else clips.splits)}
    if args.json:
        print(json.dumps(reports, indent=1))
    else:
        print("\n\n".join(f"{split}: {turns.text(report)}" for split, report in reports.items()))


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
