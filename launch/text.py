"""Shows how a text is read: avjax text --text="It cost $5 in 1999." [--language=de].

Prints the words as they are spoken, their phonemes, and their places in the table of symbols that
text-to-tokens networks read, with blanks; for every line of --file one after another. The languages
are espeak-ng's. Numbers, dates, times, money, units and addresses are spelled out by grammars in
English and 16 others (avjax/encoders/text/normaliser.py), elsewhere by espeak-ng.
"""

from absl import flags

from avjax.encoders.text import front_end
from avjax.errors import UserError
from data_pipelines.media import text_file
from launch import flags as launch_flags


def define_flags() -> None:
    flags.DEFINE_string("text", None, "What to read.")
    flags.DEFINE_string("file", "", "Instead: a text a line.")
    flags.DEFINE_string("language", front_end.LANGUAGE, "Of espeak-ng, such as de, fr or es-419.")


def main(argv):
    del argv
    args = flags.FLAGS
    if bool(args.file) == (args.text is not None):
        raise UserError("which text?", where="--text, --file", expected="one of them")
    lines = text_file.read(args.file).splitlines() if args.file else [args.text]
    for text in lines:
        if text.strip() or not args.file:
            spoken = front_end.read(text, args.language)
            print(f"{spoken.normalised}\n{spoken.phonemes}\n{' '.join(map(str, spoken.ids))}")


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main, needs_config=False)
