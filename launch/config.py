"""The fields of an experiment: python -m launch.config --config=FILE [--config.key=value ...]

    (nothing, or --list)  the file's header, and every field with its value, type, choices, default
                          and document
    --diff                the fields that differ from their defaults
    --values              every field and its value, a line each
    --json                all of it, for programs; with --diff, only what differs
    --keys=PREFIX         the keys that begin so, for a shell's completion
    (no --config)         which config files there are

FILE is configs/X.py or configs/X.py:VARIANT. The config is checked as launch.train checks it before
it opens any file; what is wrong is one line on stderr and exit code 2.
"""

from absl import flags

from avjax.errors import UserError
from launch import config_report as report
from launch import flags as launch_flags
from launch import schema

CONFIG = launch_flags.define_config()
LIST = flags.DEFINE_bool("list", False, "Every field with its document (the default).")
DIFF = flags.DEFINE_bool("diff", False, "Only the fields that differ from their defaults.")
VALUES = flags.DEFINE_bool("values", False, "Every field and its value, without documents.")
JSON = flags.DEFINE_bool("json", False, "As JSON.")
KEYS = flags.DEFINE_string("keys", None, "Only the keys that begin with this text.")


def main(argv) -> None:
    del argv
    forms = {"--list": LIST.value, "--diff": DIFF.value, "--values": VALUES.value,
             "--keys": KEYS.value is not None}
    chosen = [name for name, given in forms.items() if given]
    if len(chosen) > 1:
        raise UserError("only one form at a time", found=" ".join(chosen))
    if CONFIG.value is None:
        print(report.experiments())
        return
    file, _ = launch_flags.config_file(flags.FLAGS["config"].config_filename)
    entries = [e for e in schema.entries(CONFIG.value) if e.changed or not DIFF.value]
    if JSON.value:
        print(report.as_json(report.read_header(file), report.read_variants(file), entries))
    elif DIFF.value:
        print(report.differences(entries))
    elif VALUES.value:
        print(report.values(entries))
    elif KEYS.value is not None:
        print(report.keys(entries, KEYS.value))
    else:
        print(report.read_header(file).text, report.listing(entries), sep="\n\n")


if __name__ == "__main__":
    launch_flags.run(main, needs_config=False)
