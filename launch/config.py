"""Lists the fields of a config, with their documents and values:
avjax config --config=FILE [--config.key=value ...]

    (nothing, or --list)  the file's header, and every field with its value, type, choices, default
                          and document
    --diff                the fields that differ from their defaults
    --values              every field and its value, a line each
    --json                all of it, for programs; with --diff, only what differs
    (no --config)         which config files there are

FILE is configs/X.py or configs/X.py:VARIANT. The config is checked as launch.train checks it before
it opens any file; what is wrong is one line on stderr and exit code 2.
"""

from absl import flags

from avjax.errors import UserError
from launch import config_report as report
from launch import flags as launch_flags

CONFIG = launch_flags.define_config()
LIST = flags.DEFINE_bool("list", False, "Every field with its document (the default).")
DIFF = flags.DEFINE_bool("diff", False, "Only the fields that differ from their defaults.")
VALUES = flags.DEFINE_bool("values", False, "Every field and its value, without documents.")
JSON = flags.DEFINE_bool("json", False, "As JSON.")


def main(argv) -> None:
    del argv
    given = {"list": LIST.value, "diff": DIFF.value, "values": VALUES.value}
    chosen = [name for name, value in given.items() if value]
    if len(chosen) > 1:
        raise UserError("only one form at a time", found=" ".join(f"--{name}" for name in chosen))
    if CONFIG.value is None:
        print(report.experiments())
    else:
        path = flags.FLAGS["config"].config_filename
        form = chosen[0] if chosen else "list"
        print(report.report(path, CONFIG.value, form, as_json=JSON.value))


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
