"""ViCo -> clips: a listener watched while a speaker talks, both faces, the speaker's voice.

    RLD_data.csv   audio, uuid, listener, speaker, speaker_id, listener_id, ..., and last the split
    {uuid}.listener.mp4, {uuid}.speaker.mp4, {uuid}.wav       by uuid, as the challenge has them
    {listener}.mp4, {speaker}.mp4, {audio}.wav                by the csv's names, as the full set
    {uuid}.listener.mat, {uuid}.speaker.mat                   3DMM coefficients where somebody has
                                                              made them (Deep3DFaceRecon)

Files may lie anywhere below the source, also in zips and tars. The challenge's train.csv and the
like, which have no column for the split, are read too: the split is the file's name. Without a wav
the voice is the speaker's own track. The listener is self, the speaker the partner; a listener has
no voice of their own. Licence of the corpus: that of its owners (research).
"""

import collections
import csv
import functools
import io
import re
from typing import Annotated

import numpy as np
import scipy.io

from avjax.errors import UserError
from avjax.signal import rates
from avjax.signal.resample import interpolate
from data_pipelines import media
from data_pipelines.declared import Ingest, MaxBad, Option
from data_pipelines.ingest.common import arrays, given_faces, recordings
from data_pipelines.ingest.common import corpus as common
from data_pipelines.ingest.common.corpus import Corpus, mended
from data_pipelines.ingest.common.files import Files
from data_pipelines.media import faces, text_file
from data_pipelines.store import columns, quarantine
from data_pipelines.store.dataset import Unusable
from data_pipelines.store.schema import Feature

FPS = rates.VIDEO
APART = 5  # [ours] frames by which the two films may end apart
SIZE = 96
TABLE = "RLD_data.csv"
COEFFICIENTS = 257  # of Deep3DFaceRecon: 80 shape, 64 expression, 80 texture, 3 angles, 27 light, 3
PARTS = {"face": slice(80, 144), "angles": slice(224, 227), "translation": slice(254, 257)}
_SPLIT = re.compile(r"[a-z]\w*")


def corpus(source, *, size: int = SIZE) -> Corpus:
    """Lists the rows of the tables. Raises UserError: a table that is none, an unknown split."""
    files = Files(source, (".csv", ".mp4", ".wav", ".mat"))
    tables = [name for name in files if name.lower().endswith(".csv")]
    named = [name for name in tables if name.rpartition("/")[2] == TABLE]
    places = {name.rpartition("/")[2]: name for name in files}
    items: dict[str, list] = {}
    seen = collections.Counter()
    for table in named or tables:
        for split, item in _rows(files, table, places):
            seen[item[0]] += 1
            if (row := seen[item[0]]) > 1:
                item[:2] = f"{item[0]}, row {row} of this name", None
            items.setdefault(split, []).append(item)
    coefficients = any(name.endswith(".mat") for name in files)
    order = sorted(items, key=lambda split: (split != "train", split))
    recipes = {"partner_audio": recordings.AUDIO_RECIPE}
    recipes |= {who + name: faces.RECIPE for who in ("", "partner_") for name in ("pose", "pose_z")}
    if coefficients:
        recipes |= {f"{who}face": {"kind": "deep3dfacerecon expression", "width": 64, "rate": FPS}
                    for who in ("", "partner_")}
    return Corpus(
        name="vico", description="ViCo (Zhou et al. 2022): a listener and a speaker, both faces, "
        "the speaker's voice.", features=_features(size, coefficients),
        items={split: items[split] for split in order}, recipes=recipes,
        read=functools.partial(read, files, size, coefficients), codecs={"pose": columns.POSE})


def _rows(files: Files, table: str, places: dict[str, str]):
    """Yields (split, item) of a table's rows; none where it is a table of something else."""
    try:
        yield from _rows_of(files, table, places)
    except csv.Error as error:
        raise UserError("unreadable table", where=files.where(table), found=str(error),
                        expected="UTF-8, comma separated, with a header",
                        hint="fetch it again") from error


def _rows_of(files: Files, table: str, places: dict[str, str]):
    text = text_file.decoded(files.content(table).tobytes(), where=files.where(table), what="table",
                             expected="UTF-8, comma separated, with a header")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = reader.fieldnames or []
    if not ("uuid" in header or {"listener", "speaker"} <= set(header)):
        if table.rpartition("/")[2] == TABLE:
            raise UserError("columns missing", where=files.where(table),
                            expected="uuid, or listener and speaker", found=", ".join(header))
        return
    # the challenge's tables end with the ids of speaker and listener
    by_column = header[-1] if "split" in header[-1].lower() or table.endswith(TABLE) else ""
    for row in reader:
        cells = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)
                 and isinstance(v, str | None)}
        split = (cells[by_column] if by_column else
                 table.rpartition("/")[2].removesuffix(".csv")).lower()
        if not _SPLIT.fullmatch(split):
            raise UserError("unknown split", where=f"{files.where(table)}, line {reader.line_num}",
                            expected="train, valid, test or ood", found=repr(split),
                            hint="the table's last column names the split")
        uuid = cells.get("uuid", "")
        found = {}
        for kind, suffix in (("listener", ".mp4"), ("speaker", ".mp4"), ("audio", ".wav")):
            by_uuid = f"{uuid}{suffix}" if kind == "audio" else f"{uuid}.{kind}{suffix}"
            by_name = f"{cells.get(kind, '')}{suffix}"
            found[kind] = (uuid and places.get(by_uuid)) or places.get(by_name, "")
        names = {who: cells.get(f"{who}_id") or cells.get(who) or f"{uuid}.{who}"
                 for who in ("listener", "speaker")}
        name = uuid or cells.get("listener") or f"line {reader.line_num}"
        yield split, [name, found, names,
                      [files.size(name) for name in found.values()]]


def read(files: Files, size: int, coefficients: bool, item: list) -> dict:
    """The clip of a row. Raises Unusable."""
    name, found, names, _ = item
    if found is None:
        raise Unusable("listed twice", id=name, expected="a name once in the tables")
    try:
        return _read(files, size, coefficients, name, found, names)
    except Unusable as error:
        error.of(name)
        raise


def _read(files, size, coefficients, name, found, names) -> dict:
    for who in ("listener", "speaker"):
        if not found[who]:
            raise Unusable("a file is missing", where=str(files.root),
                           expected=f"the film of the {who}", found="none of its name")
    with files.at(found["listener"]) as film, files.at(found["speaker"]) as other, \
            files.at(found["audio"] or found["speaker"]) as voice:
        seen, spoken = (_recording(files, path, voice, size) for path in (film, other))
        frames = min(len(seen.crops), len(spoken.crops))
        if max(len(seen.crops), len(spoken.crops)) - frames > APART:
            raise Unusable("lengths differ", where=files.where(found["listener"]),
                           expected=f"films that end within {APART} frames",
                           found=f"{len(seen.crops)} of the listener, {len(spoken.crops)} of the "
                                 "speaker")
        notes = [] if len(seen.crops) == len(spoken.crops) else [
            "films that end apart, cut to the shorter"]
        clip = {"id": name, "partner_audio": spoken.audio[: frames * recordings.SAMPLES]}
        for prefix, who, recording, path in (("", "listener", seen, film),
                                             ("partner_", "speaker", spoken, other)):
            crops = np.asarray(recording.crops[:frames])
            clip |= {f"{prefix}speaker": names[who], f"{prefix}pictures": crops,
                     f"{prefix}identity": columns.identity_of(names[who]),
                     f"{prefix}portrait": crops[0], f"{prefix}pose": recording.pose[:frames],
                     f"{prefix}pose_z": columns.standardised(recording.pose[:frames])}
            if coefficients:
                mat = found[who].rpartition(".")[0].rpartition("/")[2] + ".mat"
                clip |= _coefficients(files, mat, path, frames, prefix, notes)
        return clip | {"mended": mended(*dict.fromkeys(notes))}


def _recording(files: Files, film, voice, size: int) -> recordings.Recording:
    source = recordings.Source(film.stem, film.stem, film, None if voice == film else voice, None,
                               film.parent)
    with common.left_out("", [film, voice]):
        return recordings.read(source, size=size)


def _coefficients(files: Files, mat: str, film, frames: int, prefix: str,
                  notes: list[str]) -> dict[str, np.ndarray]:
    """Expression, angles and translation at the clip's frames, of a .mat with a row a picture of
    the film."""
    name = next((n for n in files if n.rpartition("/")[2] == mat), mat)
    with files.open(name) as file:
        try:
            table = scipy.io.loadmat(file, variable_names=["coeff"])["coeff"]
        except Exception as error:  # scipy raises anything for a file that is none
            quarantine.check(error, [files.where(name)])
            raise Unusable("unreadable coefficients", where=files.where(name),
                           found=quarantine.said(error)) from error
    if table.ndim != 2 or table.shape[1] != COEFFICIENTS or table.dtype.kind != "f":
        raise Unusable("an array of another shape", where=files.where(name),
                       expected=f"coeff (N, {COEFFICIENTS})", found=f"{table.shape} {table.dtype}")
    times = media.video_times(film)
    if abs(len(times) - len(table)) > APART:
        raise Unusable("lengths differ", where=files.where(name),
                       expected=f"{len(times)} rows, as the film has pictures",
                       found=str(len(table)))
    if (bad := arrays.not_finite(table)).any():
        notes.append("frames that are not finite, interpolated")
        table = arrays.filled(table, bad, files.where(name))
    position = np.interp(times[0] + np.arange(frames) / FPS, times, np.arange(len(times)))
    table = interpolate(np.asarray(table, np.float32), position)
    return {prefix + part: np.ascontiguousarray(table[:, cut]) for part, cut in PARTS.items()}


def _features(size: int, coefficients: bool) -> dict[str, Feature]:
    out = columns.of_clip(text=False)
    for prefix, audio in (("", None), ("partner_", recordings.RATE)):
        out |= columns.of_speaker(prefix, audio=audio, pictures=size, pose=True, pose_z=True,
                                  words=False)
        if coefficients:
            out |= {f"{prefix}face": Feature((None, 64), "float32", "expression of "
                                             "Deep3DFaceRecon", "", FPS),
                    f"{prefix}angles": Feature((None, 3), "float32", "head: Euler angles of "
                                               "Deep3DFaceRecon", "rad", FPS),
                    f"{prefix}translation": Feature((None, 3), "float32", "head: translation of "
                                                    "Deep3DFaceRecon", "", FPS)}
    return out


def prepare(
    source, out, *,
    size: Annotated[int, Option("side of a face crop, pixels", least=16)] = SIZE,
    face_embeddings: given_faces.FaceEmbeddings = None,
    max_bad: MaxBad = 0.5, parallel=None, progress: bool = True,
):
    """Makes the dataset; see data_pipelines/ingest/common/corpus.py."""
    return common.prepare(corpus, source, out, dict(size=size, face_embeddings=face_embeddings),
                          max_bad=max_bad, parallel=parallel, progress=progress)


DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))
