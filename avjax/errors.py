"""The one exception a user is meant to read: printed as a single line, without a traceback."""

import functools
import sys


class UserError(Exception):
    """Bad input. The message says what, where, what was expected, what was found and the way out."""

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", way_out: str = ""):
        parts = [what]
        parts += [f"{label}: {text}" for label, text in
                  (("where", where), ("expected", expected), ("found", found), ("way out", way_out)) if text]
        super().__init__("; ".join(parts).replace("\n", " "))


def exit_cleanly(main):
    """Wraps an absl `main`: a UserError becomes one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped(argv):
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(2)

    return wrapped
