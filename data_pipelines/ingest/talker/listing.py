"""Rows of Talker-T2AV-Data and of speech lists, and the clip of a row, or why there is
none."""

import csv
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import struct
import zipfile
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from avjax.codecs.motion import check_apart
from avjax.errors import UserError
from avjax.signal import rates
from avjax.weights import torch_zip
from data_pipelines import media
from data_pipelines.media import downmix, text_file
from data_pipelines.media.tar_tree import TarTree, clean
from data_pipelines.store import quarantine

RATE = 24000
FPS = rates.FRAMES
SAMPLES = RATE // FPS  # 960 a frame
WIDTH = 40
LONGEST = 30 * FPS  # frames; longer clips are kept and counted
SHORTEST = 8  # frames: two patches of four
CSV = "metadata/train.csv"
NEEDED = ("sample_id", "text", "wav_path", "motion_pt_path")
SPEAKER_COLUMNS = ("speaker", "speaker_id")
SPLITS = {"train": "train", "": "train", "val": "valid", "dev": "valid", "eval": "valid",
          "test": "test"}


class BadRow(Exception):
    """A row that cannot be used. `reason` is one of a few words, for tables; `detail` says more, on
    one line."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, " ".join(detail.split())[:400]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the csv or of the speech list, unchanged."""

    id: str
    line: str  # file and line number, for reports
    speaker: str
    group: str  # what is held out together
    split: str  # train, valid, test
    text: str
    wav: str
    motion: str
    fps: str
    frames: int  # the csv's pt_length; 0 where it does not say
    speech_only: bool


def _next(table: csv.DictReader) -> dict | None:
    """The next row, whose fields may be long; None at the end. The limit is one of the process, and
    other tables keep theirs."""
    usual = csv.field_size_limit(1 << 24)
    try:
        return next(table, None)
    finally:
        csv.field_size_limit(usual)


class Listing:
    """All rows, read anew (and lazily) at every iteration. Raises UserError: no csv, columns
    missing, unknown split."""

    def __init__(self, root: pathlib.Path, tts: str | None = None, recording: re.Pattern
                 | None = None):
        self.root, self._recording = root, recording
        self.csv, self._tts = root / CSV, pathlib.Path(tts) if tts else None
        self.list_dir = self._tts.parent if self._tts else root
        if not self.csv.is_file() and not tts:
            raise UserError("no table of clips", where=str(self.csv),
                            expected=f"{CSV} below --source", found="no file",
                            hint="check --source, or give a list of speech with --tts")
        if self._tts and not self._tts.is_file():
            raise UserError("no such list", where="--tts",
                            expected="a text file, one wav path a line",
                            found=str(tts))

    def content(self) -> str:
        """16 hex digits over the content of the tables."""
        digest = hashlib.sha256()
        for path in (self.csv, self._tts):
            if path and path.is_file():
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[Row]:
        if self.csv.is_file():
            yield from self._of_csv()
        if self._tts:
            yield from self._of_list()

    def _of_csv(self) -> Iterator[Row]:
        try:
            table = csv.DictReader(io.StringIO(text_file.read(self.csv, what="table"), newline=""))
            columns = table.fieldnames or []
            if missing := [name for name in NEEDED if name not in columns]:
                raise UserError("columns missing", where=str(self.csv), expected=", ".join(NEEDED),
                                found=", ".join(columns) or "an empty file",
                                hint=f"add {', '.join(missing)}")
            while (cells := _next(table)) is not None:
                yield self._row({k: v or "" for k, v in cells.items() if k},
                                f"line {table.line_num}")
        except csv.Error as error:
            raise UserError("unreadable table", where=str(self.csv),
                            expected="UTF-8, comma separated, with a header", found=str(error),
                            hint="fetch it again or save it as UTF-8") from error

    def _row(self, cells: dict[str, str], line: str) -> Row:
        source = cells.get("dataset_source", "").strip() or "unknown"
        named = next((cells[c].strip() for c in SPEAKER_COLUMNS if cells.get(c, "").strip()), "")
        sample = cells["sample_id"].strip()
        match = self._recording.search(sample) if self._recording else None
        group = match[1] if match and match[1] else ""
        group = group or named or cells.get("video_path", "").strip() or sample
        length = cells.get("pt_length", "").strip()
        return Row(id=sample, line=line, speaker=named or source, group=f"{source}/{group}",
                   split=_split(cells.get("split", ""), self.csv, line),
                   text=" ".join(cells["text"].split()), wav=cells["wav_path"].strip(),
                   motion=cells["motion_pt_path"].strip(), fps=cells.get("fps", "").strip(),
                   frames=int(length) if length.isascii() and length.isdigit() else 0,
                   speech_only=False)

    def _of_list(self) -> Iterator[Row]:
        lines = text_file.read(self._tts, what="list",
                               expected="UTF-8, one wav path a line").split("\n")
        for number, text in enumerate(lines, 1):
            if path := text.strip():
                name = path.rsplit(".", 1)[0].strip("/").replace("/", ".")
                yield Row(id=f"tts-{name}", line=f"list, line {number}", speaker="tts", group=path,
                          split="train", text="", wav=path, motion="", fps="", frames=0,
                          speech_only=True)


def _split(name: str, path: pathlib.Path, line: str) -> str:
    word = name.strip().lower()
    split = next((known for start, known in SPLITS.items() if start and word.startswith(start)),
                 None)
    if split is None and word:
        raise UserError("unknown split", where=f"{path}, {line}",
                        expected="train..., val..., dev..., eval... or test...",
                        found=repr(name), hint="mend the csv's column `split`, or leave it empty")
    return split or "train"


class Reader:
    """Row -> clip. Raises BadRow. Threads may share it."""

    def __init__(self, tree: TarTree, list_dir: pathlib.Path, trim_audio: bool = False):
        self._tree, self._list_dir, self._trim = tree, list_dir, trim_audio

    def read(self, row: Row) -> dict:
        """An example of data_pipelines/ingest/talker/prepare.py's FEATURES, and "trimmed" and
        "mended": whether sound was cut, and whether its channels were mended."""
        try:
            return self._read(row)
        except BadRow:
            raise
        except Exception as error:
            names = [name for name in (row.wav, row.motion, _sidecar_of(row)) if name]
            quarantine.check(error, [folder / name for folder in (self._tree.root, self._list_dir)
                                     for name in names])
            raise BadRow("unreadable", quarantine.said(error)) from error

    def _read(self, row: Row) -> dict:
        if not row.id:
            raise BadRow("no id", "sample_id is empty")
        speaker, text = self._sidecar(row) if row.speech_only else (row.speaker, row.text)
        if not text:
            raise BadRow("empty text", "there is nothing to speak")
        if row.fps and not _is(row.fps, FPS):  # an empty cell claims nothing
            raise BadRow("fps not 25", f"fps = {row.fps}")
        motion = np.zeros((0, WIDTH), np.float32) if row.speech_only else \
            motion_of(self._bytes(row, row.motion, "motion"), row.motion)
        (audio, mended), trimmed = audio_of(self._bytes(row, row.wav, "wav"), row.wav), False
        frames = len(audio) / SAMPLES
        if not row.speech_only:
            if trimmed := self._trim and frames > len(motion):
                audio = audio[: len(motion) * SAMPLES]
                frames = len(motion)
            try:
                # not rounded: extraction counts a begun frame as one
                check_apart(frames, len(motion))
            except UserError as error:
                raise BadRow("lengths differ", f"{len(motion)} frames of motion, {frames:.2f} of "
                                               "sound"
                             + ("" if self._trim or frames < len(motion)
                                else " (or --trim_audio)")) from error
            frames = min(frames, len(motion))
        if int(frames) < SHORTEST:
            raise BadRow("too short", f"{frames:.2f} frames, at least {SHORTEST} (two patches)")
        return {"id": row.id, "speaker": speaker, "text": text, "audio": audio, "motion": motion,
                "trimmed": trimmed,
                "mended": mended}

    def _bytes(self, row: Row, path: str, kind: str) -> bytes:
        if not path:
            raise BadRow(f"missing {kind}", "the row names none")
        name = clean(path)
        if row.speech_only and path.startswith("/"):  # the list is the user's own
            data = _read(pathlib.Path(path))
        elif name is None:
            raise BadRow("unsafe path", f"{path!r} leads out of the folder")
        else:
            data = self._tree.read(name)
            data = _read(self._list_dir / name) if data is None and row.speech_only else data
        if data is None:
            raise BadRow(f"missing {kind}", f"no {path}, on disk or in a shard")
        return data

    def _sidecar(self, row: Row) -> tuple[str, str]:
        """(speaker, text) from the .json beside a wav."""
        path = _sidecar_of(row)
        try:
            content = json.loads(self._bytes(row, path, "text"))
        except ValueError as error:
            raise BadRow("unreadable text", f"{path}: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("text"), str):
            raise BadRow("unreadable text", f'{path}: expected {{"text": "..."}}')
        speaker = content.get("speaker")
        return (speaker if isinstance(speaker, str) and speaker
                else row.speaker), " ".join(content["text"].split())


def _sidecar_of(row: Row) -> str:
    return row.wav.rsplit(".", 1)[0] + ".json"


def motion_of(data: bytes, name: str) -> np.ndarray:
    """(T, 40) float32 from the bytes of a torch-saved bare tensor; nothing in it is executed.
    Raises BadRow."""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(info.file_size for info in archive.infolist()) > 2 * len(data) + 4096:
                    raise BadRow("unreadable motion", f"{name}: it would unpack to many times its "
                                                      "size")
        array = torch_zip.read_torch_zip(name, data)
    except zipfile.BadZipFile as error:
        raise BadRow("unreadable motion", f"{name}: {error}") from error
    except UserError as error:
        raise BadRow("unsafe motion" if "not plain data" in str(error) else "unreadable motion",
                     str(error)) from error
    if not isinstance(array, np.ndarray):
        raise BadRow("unreadable motion", f"{name}: expected a bare tensor, found "
                                          f"{type(array).__name__}")
    if array.ndim != 2 or array.shape[1] != WIDTH:
        raise BadRow("wrong width", f"{name}: expected (frames, {WIDTH}), found {array.shape}")
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise BadRow("unreadable motion", f"{name}: expected floats, found {array.dtype}")
    if array.nbytes > len(data):  # a stride of 0 makes any number of frames from a few bytes
        raise BadRow("unreadable motion", f"{name}: {array.shape} from a file of {len(data)} bytes")
    motion = array.astype(np.float32)
    if not np.isfinite(motion).all():
        frame = int(np.flatnonzero(~np.isfinite(motion).all(1))[0])
        raise BadRow("NaN", f"{name}: frame {frame} is not finite")
    return motion


def audio_of(data: bytes, name: str) -> tuple[np.ndarray, bool]:
    """(N,) int16 at 24 kHz from the bytes of a sound file, and whether its channels had to be
    mended (see `downmix`).

    Raises BadRow.
    """
    try:
        # libsndfile 1.2 takes a size of 0 at its word
        if samples := media.check_riff(io.BytesIO(data), name):
            size = struct.pack("<I", min(len(data) - samples, 0xFFFFFFFF))
            data = data[: samples - 4] + size + data[samples:]
        audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except media.MediaError as error:
        raise BadRow(f"{error.reason} wav", str(error)) from error
    except (soundfile.SoundFileError, RuntimeError, ValueError, MemoryError) as error:
        raise BadRow("unreadable wav", f"{name}: {error}") from error
    if not np.isfinite(audio).all():
        raise BadRow("NaN", f"{name}: a sample is not finite")
    mono, remarks = downmix.mono(audio.T)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, quality="HQ")
    return np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16), bool(remarks)


def _read(path: pathlib.Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _is(text: str, value: float) -> bool:
    try:
        return abs(float(text) - value) < 1e-3
    except ValueError:
        return False
