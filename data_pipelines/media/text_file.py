"""The one way in which a person's text files are read: transcripts, scripts, tables, vocabularies.

UTF-8, and what shows that it is Unicode of another kind: a byte-order mark, or the zero bytes that
UTF-16 has beside plain letters. Nothing is guessed beyond that: a wrong guess is garbage that
nobody notices.
"""

import codecs
import pathlib

from avjax.errors import UserError
from avjax.storage import failures

# UTF-32's before UTF-16's: it begins as the other does.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32",
          codecs.BOM_UTF32_BE: "utf-32",
          codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NAMES = {"cp1252": "Windows-1252 or Latin-1", "utf-16": "UTF-16 without a byte-order mark",
          "": "no text"}


class TextError(UserError):
    """A file that is no text; `reason` in few words, for what leaves out the item it belongs to."""

    def __init__(self, what: str, **details):
        self.reason = f"unreadable {what}"
        super().__init__(self.reason, **details)


def read(path, *, what: str = "text", expected: str = "a text file in UTF-8") -> str:
    """The text of a file, without a byte-order mark. Line ends stay as they are.

    Args:
      what: the file's role, for the message.

    Raises TextError: a missing file, and one in an encoding that cannot be known, with the line and
    the likely encoding. StorageError where it cannot be read now.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        failures.check(error, path)
        raise TextError(what, where=str(path), expected=expected,
                        found=error.strerror or type(error).__name__) from error
    return decoded(content, where=str(path), what=what, expected=expected)


def decoded(content: bytes, *, where: str, what: str, expected: str) -> str:
    """`read` of a file's bytes."""
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    encoding = next(marked, None) or _by_zeros(content)
    try:
        text = content.decode(encoding)
        bad = text.find("\0")
        if bad < 0:
            return text
        line, shown, likely = text.count("\n", 0, bad) + 1, "a zero byte", ""
    except UnicodeDecodeError as error:
        line, likely = content.count(b"\n", 0, error.start) + 1, _likely(content)
        shown = f"byte 0x{content[error.start]:02x}"
        if likely == "cp1252":
            begin, end = content.rfind(b"\n", 0, error.start) + 1, error.start + 12
            near = content[max(begin, error.start - 12):end].decode("cp1252", errors="replace")
            shown += f" in {near.strip().splitlines()[0]!r}"
    hint = f"iconv -f {likely.upper()} -t UTF-8 {where} > NEW" if likely else "give a text file"
    found = f"{shown}: {encoding} it is not, {_NAMES[likely]} it may be"
    raise TextError(what, where=f"{where}, line {line}", expected=expected, found=found, hint=hint)


def _by_zeros(content: bytes) -> str:
    """UTF-16 of mostly plain letters has a zero in every second byte; text in UTF-8 has none."""
    start = content[:4096]
    even, odd = (start[k::2].count(0) / max(1, len(start[k::2])) for k in (0, 1))
    if len(content) % 2 == 0 and max(even, odd) > 0.7 and min(even, odd) < 0.1:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _likely(content: bytes) -> str:
    """What bytes that are no UTF-8 may be: "cp1252" where it reads as words, "utf-16", or "" for
    none."""
    if b"\0" in content:
        return "utf-16" if len(content) % 2 == 0 and _by_zeros(content + content) != "utf-8" else ""
    text = content.decode("cp1252", errors="replace")
    odd = sum(not (c.isalnum() or c.isspace() or c.isprintable()) or c == "\ufffd" for c in text)
    return "cp1252" if odd < 0.02 * len(text) else ""
