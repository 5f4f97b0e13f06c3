"""LJSpeech-1.1 (public domain): one reader, 13 100 sentences -> clips of speech with text.

    metadata.csv           id|raw text|normalised text, no header; quotes are plain characters
    wavs/LJ001-0001.wav    22 050 Hz, one channel
    *train*.txt, *val*.txt, *test*.txt   filelists, `path|text`: beside it, in filelists/, or in
                           the folder --filelists

Held out: what filelists say (12 500, 100 and 500 clips as published). Without them, the owner's
order where all 13 100 are there (the last 500 test, the 100 before them valid; ours by choice, the
owner holds out none); else a share by a hash of the id. `text` is the normalised one, or
--text=raw.
"""

import functools
import pathlib
import re
from collections import Counter
from typing import Annotated, Any

from avjax.errors import UserError
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import holdout, passage
from data_pipelines.media import text_file
from data_pipelines.store import columns
from data_pipelines.store import dataset as store

RATE = 22050
WHOLE, TEST, VALID = 13100, 500, 100
SHORTEST = 0.5  # seconds; the shortest of the corpus has 1.1
_LISTS = {"test": "test", "valid": "val", "train": "train"}  # {split: what the name has in it}
SPEAKER = "LJ"


def prepare(
    source, out, *,
    filelists: Annotated[str | None, Option("folder of filelists, where they are not beside "
                                            "metadata.csv")] = None,
    text: Annotated[str, Option("which of the two transcripts", ("normalised",
                                                                 "raw"))] = "normalised",
    valid_share: Annotated[float, Option("share that is held out where neither filelists nor the "
                                         "whole corpus are there", least=0, below=1)] = 0.02,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
) -> dict | None:
    """Makes the clip dataset OUT of LJSpeech; see data_pipelines/ingest/common/corpus.py."""
    options = dict(filelists=filelists, text=text, valid_share=valid_share)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


def corpus(source: pathlib.Path, *, filelists: str | None = None, text: str = "normalised",
           valid_share: float = 0.02) -> common.Corpus:
    """Lists LJSpeech. Raises UserError: no table, a table or filelist that is no text."""
    table = next((p for p in (source / "metadata.csv", *sorted(source.glob("*/metadata.csv")))
                  if p.is_file()), None)
    if table is None:
        raise UserError("no table of clips", where=str(source), expected="metadata.csv",
                        found="none", hint="check --source: the folder LJSpeech-1.1")
    wavs = {p.stem: p.name for p in sorted((table.parent / "wavs").glob("[!.]*.wav"))}
    rows, told = _rows(table, text, wavs), Counter()
    lists = _filelists(pathlib.Path(filelists) if filelists else table.parent, bool(filelists))
    splits = _split(rows, lists, valid_share, told)
    known = {row["id"] for row in rows}
    items = {split: [] for split in ("train", "valid", "test")}
    for row in rows:
        defect = row["defect"] or ("" if row["id"] in splits else "in no filelist")
        items[splits.get(row["id"], "train")].append(row | {"defect": defect})
    items["train"] += [{"id": id, "text": "", "line": "", "wav": wav, "mended": [],
                        "defect": "no transcript"} for id, wav in wavs.items()
                       if id not in known]
    features = columns.of_clip() | columns.of_speaker(audio=RATE)
    return common.Corpus(
        name="ljspeech", features=features, items={s: x for s, x in items.items() if x},
        description="LJSpeech-1.1 by Keith Ito and Linda Johnson, public domain. Splits: "
                    f"{next(what for what in told if what.startswith('splits'))}.",
        read=functools.partial(read, table.parent / "wavs"),
        recipes={"audio": passage.AUDIO_RECIPE}, told=told)


def read(folder: pathlib.Path, item: dict[str, Any]) -> dict:
    """One item of the list -> its clip. Raises store.Unusable."""
    wav = folder / item["wav"]
    if item["defect"]:
        raise store.Unusable(item["defect"], id=item["id"], where=item["line"] or str(wav))
    with common.left_out(item["id"], [wav]):
        heard, mended = passage.sound(wav, rate=RATE, shortest=SHORTEST)
        if (native := passage.native_rate(wav)) != RATE:
            mended.append(f"sound of {native} Hz")
    return {"id": item["id"], "text": item["text"],
            "mended": common.mended(*item["mended"], *mended), "speaker": SPEAKER,
            "identity": columns.identity_of(SPEAKER), "words": "[]",
            "audio": passage.samples(heard.samples)}


def _rows(table: pathlib.Path, text: str, wavs: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of metadata.csv, each with its defect, "" for none."""
    rows, seen = [], set()
    for number, line in enumerate(text_file.read(table, what="table").splitlines(), 1):
        if not line.strip():
            continue
        cells = [" ".join(cell.split()) for cell in line.split("|")]
        id, mended, defect = cells[0], [], ""
        raw, normalised = (*cells[1:3], "", "")[:2]
        said = normalised if text == "normalised" else raw
        if not said and raw + normalised:
            said, other = raw or normalised, "raw" if raw else "normalised"
            mended.append(f"{text} text missing: the {other} one")
        if not id or len(cells) > 3 or "/" in id:
            defect = "malformed row"
        elif id in seen:
            defect = "duplicate id"
        elif not said:
            defect = "empty text"
        elif id not in wavs:
            defect = "no wav"
        seen.add(id)
        rows.append({"id": id, "text": said, "line": f"{table.name}, line {number}",
                     "wav": wavs.get(id, ""), "mended": mended, "defect": defect})
    return rows


def _filelists(folder: pathlib.Path, asked: bool) -> dict[str, set[str]]:
    """{split: ids} of the filelists of a folder; {} where there are none."""
    if asked and not folder.is_dir():
        raise UserError("no such folder", where="--filelists", expected="a folder of filelists",
                        found=str(folder))
    out = {}
    for split, word in _LISTS.items():
        found = [p for base in (folder, folder / "filelists") for p in sorted(base.glob("*.txt"))
                 if re.search(rf"(^|[^a-z]){word}(id)?([^a-z]|$)", p.stem.lower())]
        if len(found) > 1:
            raise UserError("several filelists of one split", where=str(folder),
                            expected=f"one with {word!r} in its name",
                            found=", ".join(p.name for p in found),
                            hint="keep one of them in the folder that --filelists names")
        if found:
            lines = text_file.read(found[0], what="filelist").splitlines()
            out[split] = {pathlib.PurePosixPath(line.split("|")[0].strip()).stem for line in lines
                          if line.strip()}
    if asked and "train" not in out:
        raise UserError("no filelists here", where=str(folder),
                        expected="...train...txt, ...val...txt, ...test...txt",
                        found=", ".join(sorted(out)) or "none", hint="check --filelists")
    return out if "train" in out else {}


def _split(rows, lists: dict[str, set[str]], valid_share: float, told: Counter) -> dict[str, str]:
    """{id: split}. `told` gets how, and what filelists name that is not here or twice."""
    ids = list(dict.fromkeys(row["id"] for row in rows if row["id"]))
    if lists:
        out = {}
        for split, named in lists.items():  # what is held out stays so
            told["in two filelists, held out"] += len(named & out.keys())
            out |= {id: split for id in named if id not in out}
        told["in a filelist, not in metadata.csv"] = len(out.keys() - set(ids))
        told["splits by filelists"] = len(out.keys() & set(ids))
        return {id: split for id, split in out.items() if id in set(ids)}
    if len(ids) == WHOLE:
        told["splits by the owner's order"] = len(ids)
        edges = {"test": ids[-TEST:], "valid": ids[-TEST - VALID:-TEST]}
        return dict.fromkeys(ids, "train") | {id: s for s, part in edges.items() for id in part}
    told["splits by a hash of the id"] = len(ids)
    held_out = holdout.by_name((row["id"] for row in rows if not row["defect"]), valid_share)
    return {id: "valid" if id in held_out else "train" for id in ids}


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
