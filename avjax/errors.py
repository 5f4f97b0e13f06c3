"""The exceptions a user is meant to read: printed as a single line, without a traceback."""

USER, RESTARTABLE = 2, 75  # exit codes: starting again does not mend it; it does (EX_TEMPFAIL)
PARTIAL = 3  # what was asked for is there but for some examples, which are listed


class _OneLine(Exception):
    code: int

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "",
                 hint: str = ""):
        self.what, self.expected, self.found, self.hint = what, expected, found, hint
        parts = [what]
        parts += [f"{label}: {text}" for label, text in
                  (("where", where), ("expected", expected), ("found", found), ("hint", hint))
                  if text]
        super().__init__("; ".join(parts).replace("\n", " "))


class UserError(_OneLine):
    """Bad input. The message says what, where, what was expected, what was found and a hint."""

    code = USER


class StorageError(_OneLine):
    """Storage that fails, which says nothing about what lies there: finished work is kept, and the
    same command goes on once the storage is back. Not a UserError, so that nobody takes it for bad
    input."""

    code = RESTARTABLE


class DiskFull(StorageError):
    """No space left: finished work is kept all the same, but somebody has to make room first."""

    code = USER
