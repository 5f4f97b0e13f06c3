"""Fisher English (LDC2004S13, LDC2005S13 and their transcripts LDC2004T19, LDC2005T19; licence of
the LDC): telephone calls of ten minutes -> clips of two speakers.

    .../audio/000/fe_03_00001.sph     SPHERE, 8 kHz, a channel a speaker; packed by shorten or not
    .../trans/000/fe_03_00001.txt     see transcript.py; words have no times of their own
    .../*_calldata.tbl                call, ..., speaker of channel A (column 5), ..., of B (10)

They are found wherever they are below the folder. A call is cut in silences; a clip is of both
sides. The owners hold out nothing: a share of the calls is, by a hash of their number; people call
more than once, so most who are heard there are known. The sound is of telephones (below 4 kHz):
for text and units; features of it say so, and what makes sound does not train on them.
"""

import csv
import dataclasses
import functools
import json
import pathlib
import re
from collections import defaultdict
from typing import Annotated, Any

from avjax.errors import UserError
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.features.tavid import script
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common import holdout, passage
from data_pipelines.ingest.common.recordings import FPS, SAMPLES
from data_pipelines.ingest.conversations import checks, cut
from data_pipelines.ingest.conversations.write import told
from data_pipelines.ingest.fisher import transcript
from data_pipelines.media import archives, text_file
from data_pipelines.store import columns
from data_pipelines.store import dataset as store

RATE = passage.RATE
NATIVE = 8000
AUDIO_RECIPE = passage.AUDIO_RECIPE | {"channels": "one of the recording's", "native_rate": NATIVE}
UNKNOWN = "speaker not in the tables"
_NAME = re.compile(r"fe_03_(\d{5})\.(sph|txt)", re.IGNORECASE)
_CALL, _SIDES = 0, (5, 10)  # columns of a table


def prepare(
    source, out, *,
    max_seconds: Annotated[float, Option("longest clip; calls are cut in silences",
                                         least=5)] = 60.0,
    valid_share: Annotated[float, Option("share of the calls that is held out, by a hash of their "
                                         "number", least=0, below=1)] = 0.02,
    max_bad: MaxBad = 0.1, parallel=None, progress: bool = True,
) -> dict | None:
    """Makes the clip dataset OUT of Fisher; see data_pipelines/ingest/common/corpus.py."""
    options = dict(max_seconds=max_seconds, valid_share=valid_share)
    return common.prepare(corpus, source, out, options, max_bad=max_bad, parallel=parallel,
                          progress=progress)


def corpus(source: pathlib.Path, *, max_seconds: float = 60.0,
           valid_share: float = 0.02) -> common.Corpus:
    """Lists the calls. Raises UserError: a table that is none."""
    files, tables = _find(source)
    speakers: dict[str, tuple[str, str]] = {}
    differ = set()
    for table in tables:
        for session, names in _speakers(table).items():
            if speakers.setdefault(session, names) != names:
                differ.add(session)
    items = [_item(source, session, kinds, speakers) for session, kinds in sorted(files.items())]
    usable = [item["id"] for item in items if not item["defect"]]
    held_out = holdout.by_name(usable, valid_share)
    splits = {split: [i for i in items if (i["id"] in held_out) == (split == "valid")]
              for split in ("train", "valid")}
    features = columns.of_clip() | columns.of_dialogue()
    for prefix in columns.PREFIXES[:2]:
        features |= columns.of_speaker(prefix, audio=RATE, activity=True)
    return common.Corpus(
        name="fisher", features=features, items={s: x for s, x in splits.items() if x},
        description="Fisher English (LDC): telephone calls at 8 kHz, for text and units. Split by "
                    "a hash of the call.",
        read=functools.partial(read, source, max_seconds),
        recipes={f"{p}audio": AUDIO_RECIPE for p in columns.PREFIXES[:2]},
        told={"calls in the tables, not here": len(speakers.keys() - files.keys()),
              "calls of which tables name other speakers, the first taken": len(differ)})


@dataclasses.dataclass(frozen=True)
class _Call:
    """What conversations/cut.py and write.py read of a conversation. frames: at FPS."""

    utterances: list[tuple[int, str, float, float]]
    activity: list[list[tuple[float, float]]]
    frames: int
    words: tuple = ((), ())
    has_text: bool = True


def read(source: pathlib.Path, max_seconds: float,
         item: dict[str, Any]) -> list[dict | store.Unusable]:
    """The clips of a call. Raises store.Unusable, MediaError, TranscriptError."""
    if item["defect"]:
        raise store.Unusable(item["defect"], id=item["id"], where=item["sph"] or item["txt"],
                             expected="one .sph and one .txt of each call", found=item["found"])
    sound = _sound(source / item["sph"])
    samples = min(map(len, sound))
    frames = samples // SAMPLES
    said, mended = transcript.read(source / item["txt"], item["id"][-5:], samples / RATE)
    if {who for who, *_ in said} != {0, 1}:
        raise store.Unusable("only one speaks", where=item["txt"], expected="words of A and B",
                             found=f"{len(said)} utterances")
    activity = [[u[2:] for u in said if u[0] == who] for who in (0, 1)]
    call = _Call(said, activity, frames)
    mended += [UNKNOWN] if item["unknown"] else []
    return [_clip(item, call, sound, first, last, mended)
            for first, last in cut.pieces(call, 0, frames, max_seconds)]


def _clip(item, call: _Call, sound, first: int, last: int,
          mended: list[str]) -> dict | store.Unusable:
    id, names, part = f"{item['id']}-{first:06d}", item["speakers"], told(call, first / FPS,
                                                                          last / FPS)
    if not part.events:
        return store.Unusable("nothing is said", id=id, where=item["txt"], expected="an utterance",
                              found=f"none from {first / FPS:.1f} to {last / FPS:.1f} s")
    row = {"id": id, "side": "0", "mended": common.mended(*mended),
           "events": json.dumps(part.events),
           "text": script.of_events(part.events, names=names).text}
    for prefix, name, x, active in zip(columns.PREFIXES, names, sound, part.activity, strict=False):
        row |= {f"{prefix}speaker": name, f"{prefix}identity": columns.identity_of(name),
                f"{prefix}words": "[]", f"{prefix}activity": json.dumps(active),
                f"{prefix}audio": passage.samples(x[first * SAMPLES:last * SAMPLES])}
    return row


def _sound(path: pathlib.Path) -> list:
    """Both channels, (N,) float32 at RATE. Raises MediaError, Unusable: truncated, not two
    channels, of another rate, a silent channel, one channel twice."""
    media.check_whole(path)
    count, rate = media.channels(path), passage.native_rate(path)
    if count != 2:
        raise store.Unusable("not two channels", where=str(path), expected="a speaker a channel",
                             found=str(count))
    if rate != NATIVE:
        raise store.Unusable("another sample rate", where=str(path), expected=f"{NATIVE} Hz",
                             found=f"{rate} Hz")
    sound = [media.read_sound(path, RATE, channel=k).samples for k in range(count)]
    media.check_whole(path, len(sound[0]) / RATE)
    checks.check(sound, transcript.CHANNELS, {}, str(path))  # a file has one clock
    return sound


def _find(source: pathlib.Path) -> tuple[dict[str, dict[str, list]], list[pathlib.Path]]:
    """({session: {"sph" or "txt": paths}}, tables of speakers) below a folder, links followed."""
    files: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    tables = []
    for folder, names in archives.folders(source):
        for name in names:
            path = folder / name
            if (match := _NAME.fullmatch(name)) and path.is_file():  # and no link to nothing
                files[match[1]][match[2].lower()].append(path)
            elif name.lower().endswith("_calldata.tbl"):
                tables.append(path)
    return files, tables


def _item(source: pathlib.Path, session: str, kinds: dict[str, list], speakers: dict) -> dict:
    """What JSON holds of a call, with its defect, "" for none."""
    item: dict[str, Any] = {"id": f"fe_03_{session}", "defect": "", "found": ""}
    for kind, defect in (("sph", "no sound"), ("txt", "no transcript")):
        paths = kinds[kind]
        places = [p.relative_to(source).as_posix() for p in paths]
        item[kind] = places[0] if places else ""
        item[f"{kind} bytes"] = paths[0].stat().st_size if paths else 0
        if not paths or item["defect"]:
            item["defect"] = item["defect"] or defect
        elif len(paths) > 1 and len({p.read_bytes() for p in paths}) > 1:
            item |= {"defect": "duplicate call", "found": ", ".join(places)}
    named = speakers.get(session, ("", ""))
    item["unknown"] = not all(named)
    item["speakers"] = [pin or f"{item['id']}.{side}"
                        for pin, side in zip(named, transcript.CHANNELS, strict=True)]
    return item


def _speakers(table: pathlib.Path) -> dict[str, tuple[str, str]]:
    """{session: names of A and B, "" where the table has none}. Raises UserError: no table."""
    out = {}
    try:
        rows = list(csv.reader(text_file.read(table, what="table").splitlines()))
    except csv.Error as error:
        raise UserError("unreadable table", where=str(table), expected="UTF-8, comma separated",
                        found=str(error), hint="fetch it again") from error
    for row in rows:
        if len(row) > max(_SIDES) and row[_CALL].strip().isdigit():
            session = row[_CALL].strip().zfill(5)
            out[session] = tuple(f"fisher{row[k].strip()}" if row[k].strip() else ""
                                 for k in _SIDES)
    return out


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
