"""The transcripts of one recording, of whatever formats, as one list."""

import os
import pathlib
import unicodedata
from collections.abc import Sequence

from data_pipelines.media import text_file
from data_pipelines.media.transcripts import json_words, named_lines, nist, subtitles, textgrid
from data_pipelines.media.transcripts.said import Rows, Said, TranscriptError

_READERS = {".json": json_words.read, ".rttm": nist.read_rttm, ".stm": nist.read_stm,
            ".textgrid": textgrid.read, ".vtt": subtitles.read, ".srt": subtitles.read,
            ".txt": named_lines.read}
SUFFIXES = tuple(_READERS)  # in lower case


def read(paths, *, names: Sequence[str] = (), duration: float | None = None) -> list[Said]:
    """What is said in a recording.

    Args:
      paths: its transcript, or several: one a speaker, or an RTTM and an STM table.
      names: the speakers, in any case; () takes those that the files name.
      duration: of the sound, seconds; None leaves times past its end unnoticed.

    Returns:
      In the order of their start; what has no times is in the files' order, after all that has.

    Raises TranscriptError, with file and line: a format that is not known or not kept to, times
    that are none, past the end or before the start, words of a speaker that overlap, a speaker who
    is not among `names`. UserError for a file that cannot be read.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[str, list[Said]] = {}
    for path in map(pathlib.Path, paths):
        kind = path.suffix.lower()
        if kind not in _READERS:
            raise TranscriptError("unknown kind of transcript", path, found=path.name,
                                  expected=f"a file ending in {' '.join(SUFFIXES)}")
        text = unicodedata.normalize("NFC", text_file.read(path, what="transcript"))
        if not text.strip():
            raise TranscriptError("an empty transcript", path, expected="what is said",
                                  found="nothing", hint="fill it, or take it away")
        # names of RTTM's are often labels of a diarisation, which STM's names replace
        both = kind == ".rttm" and any(str(p).lower().endswith(".stm") for p in paths)
        rows = Rows(path, () if both else names, duration)
        _READERS[kind](text, rows)
        found.setdefault(kind, []).extend(rows.said)
    if ".rttm" in found and ".stm" in found:
        found[".rttm"] = nist.beside(found[".rttm"], found[".stm"])
    said = [one for several in found.values() for one in several]
    return sorted((s for s in said if s.start is not None), key=lambda s: (s.start, s.end)) + [
        s for s in said if s.start is None]
