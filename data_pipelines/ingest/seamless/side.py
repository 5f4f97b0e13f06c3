"""One side of an interaction, read and checked: what was said, and what is seen of the face.

Pictures are not decoded here. Everything is on one clock, which begins with the sound and with the
video's first frame, and counted in frames of 1/30 s.
"""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from avjax.errors import StorageError
from data_pipelines import media
from data_pipelines.ingest.common.arrays import contained
from data_pipelines.ingest.common.recordings import SAMPLES, SILENCE
from data_pipelines.ingest.seamless import said, seen
from data_pipelines.ingest.seamless.listing import participant
from data_pipelines.ingest.seamless.phrases import Word
from data_pipelines.ingest.seamless.seen import FPS
from data_pipelines.media import planes
from data_pipelines.media.tar_tree import Member
from data_pipelines.store import quarantine
from data_pipelines.store.dataset import Unusable

RATE = SAMPLES * FPS
# bytes: the owners put files of 261 and 58 in the place of a video and of a sound that are missing
_NO_VIDEO, _NO_SOUND = 1024, 100
_APART = 1.0  # seconds by which sound and pictures may differ
_SIZE = (1080, 1920)  # of pictures, where no video says
SMPLH = "SMPL-H at another rate than 30 Hz (it is not used)"
CUT_OFF = "speech runs over an end: the interaction's times may be wrong"


@dataclasses.dataclass
class Side:
    """frames: of 1/30 s. audio: (frames * 735,) float32. face, code: None where not asked for.
    known: (frames,) where what was asked for is known. notes: what was noticed and mended."""

    id: str
    speaker: str
    frames: int
    audio: np.ndarray
    words: list[Word]
    activity: list[list[float]]
    annotations: dict[str, list]
    film: planes.Film | None
    size: tuple[int, int]
    face: seen.Face | None
    code: np.ndarray | None
    known: np.ndarray
    notes: set[str]


class Files:
    """The files of one side, by key, in tars or on their own."""

    def __init__(self, root: pathlib.Path, id: str, files: dict[str, list], cut: bool):
        self.id, self._cut = id, cut
        self._members = {key: Member(root / place, offset, size, name)
                         for key, (place, offset, size, name) in files.items()}
        for member in self._members.values():
            try:
                there = member.path.stat().st_size
            except OSError as error:  # the list is of this job: a mount is away, or worse
                raise StorageError("a file of the corpus has gone", where=str(member.path),
                                   found=error.strerror,
                                   hint="bring it back and start again") from error
            if there < (member.offset or 0) + member.size:
                raise StorageError("a file of the corpus has become shorter",
                                   where=str(member.path), found=f"{there} bytes",
                                   hint="fetch it again and start again")

    def get(self, key: str, placeholder: int = 0) -> Member:
        """Raises Unusable: not there, or one that stands in for what is missing."""
        member = self._members.get(key)
        if member is None:
            raise Unusable(f"missing {key}", found="its archive is cut short" if self._cut else
                           f"no {key} of {self.id}")
        if member.size <= placeholder:
            raise Unusable(f"placeholder {key}", where=str(member),
                           found=f"{member.size} bytes, as the owners leave where it is missing")
        return member

    def has(self, key: str) -> bool:
        return key in self._members

    def json(self) -> dict:
        """What the JSON says; of the bucket its parts."""
        if self.has("json"):
            content = _parsed(self.get("json"))
            if not isinstance(content, dict):
                raise Unusable("unreadable json", where=str(self.get("json")),
                               expected="an object", found=type(content).__name__)
            return content
        parts = [k for k in self._members if k.startswith(("metadata:", "annotations:"))]
        if not any(k.startswith("metadata:") for k in parts):
            self.get("json")  # raises
        return {k: _parsed(self.get(k), lines=k.startswith("metadata:")) for k in parts}

    def arrays(self, *names: str) -> list[np.ndarray]:
        """Arrays "group:name" of the npz; of the bucket, from files of their own. Raises Unusable:
        not there, unreadable, empty, of different lengths."""
        try:
            if self.has("npz"):
                with np.load(self.get("npz").open(), allow_pickle=False) as arrays:
                    missing = [name for name in names if name not in arrays.files]
                    out = [contained(arrays.zip.read(f"{name}.npy")) for name in names
                           if name not in missing]
            else:
                missing = [name for name in names if not self.has(name)]
                out = [contained(self.get(name).read()) for name in names if name not in missing]
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, OSError,
                NotImplementedError) as error:
            quarantine.check(error, [])
            raise Unusable("unreadable arrays", found=f"{self.id}: {quarantine.said(error)}"
                           ) from error
        if missing:
            raise Unusable("missing arrays", expected=", ".join(names),
                           found=f"no {', '.join(missing)} of {self.id}")
        lengths = [len(x) if x.ndim else 0 for x in out]
        if not all(lengths):
            raise Unusable("placeholder arrays", found=f"{names[lengths.index(0)]} of {self.id} "
                           "has no rows, as the owners leave where it is missing")
        if max(lengths) - min(lengths) > seen.SLACK:
            raise Unusable("arrays of different lengths",
                           found=", ".join(f"{n} {k}" for n, k in zip(names, lengths, strict=True)))
        return [x[: min(lengths)] for x in out]


def read(files: Files, columns: str, movement: str, size: int) -> Side:
    """Reads one side.

    Args:
      columns: "sound", "motion" or "video".
      movement: group of the face code, "" for none.
      size: of the pictures.

    Raises Unusable, with its id.
    """
    try:
        return _read(files, columns, movement, size)
    except media.MediaError as error:
        raise Unusable(f"{error.reason} sound" if error.reason == "unreadable" else error.reason,
                       id=files.id, found=str(error)) from error
    except Unusable as error:
        error.of(files.id)
        raise


def _read(files: Files, columns: str, movement: str, size: int) -> Side:
    notes: set[str] = set()
    audio = _sound(files)
    seconds = len(audio) / RATE
    content = files.json()
    words = said.words(content.get("metadata:transcript"), seconds, notes)
    activity = said.activity(content.get("metadata:vad"), words, seconds, notes)
    if activity and (activity[0][0] < 0.1 or activity[-1][1] > seconds - 0.1):
        notes.add(CUT_OFF)
    frames = int(seconds * FPS + 1e-6)
    side = Side(files.id, participant(files.id), frames, audio, words, activity,
                said.annotations(content), None, _SIZE, None, None, np.ones(frames, bool), notes)
    if columns == "sound":
        return side
    shown = _shown(files, seconds, columns == "video")
    _look(side, files, shown, seconds, size if columns == "video" else 1)
    if movement:
        code_NF, valid_N = files.arrays(f"{movement}:expression", f"{movement}:is_valid")
        _check_shape(code_NF, f"{movement}:expression", 128)
        rows_K = seen.rows_at(len(code_NF), shown.frames, shown.fps, seconds, notes)
        side.code, known = seen.code(code_NF, valid_N, rows_K[: side.frames], notes)
        side.known = _both(side.known, known)
    side.frames = min(side.frames, len(side.known))
    side.known = side.known[: side.frames]
    return side


def _sound(files: Files) -> np.ndarray:
    member = files.get("wav", _NO_SOUND)
    media.check_whole(member)
    audio = media.read_sound(member, RATE).samples
    loud = np.sqrt(np.square(audio[: len(audio) // SAMPLES * SAMPLES].reshape(-1, SAMPLES)
                             ).mean(1))
    if not len(loud):
        raise Unusable("too short", found=f"{len(audio) / RATE:.2f} s of sound")
    if loud.max() < SILENCE:
        raise Unusable("silent sound", where=str(member), expected="-50 dB or more in some frame",
                       found=f"{20 * np.log10(max(loud.max(), 1e-6)):.0f} dB")
    return audio


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Frames of a video, their rate, width and height, and the video itself."""

    frames: int
    fps: float
    size: tuple[int, int]
    film: planes.Film | None


def _shown(files: Files, seconds: float, needed: bool) -> _Shown:
    """By the header of the video. Where there is none and none is needed: as the owners say that
    videos are."""
    if not needed and (not files.has("mp4") or files.get("mp4").size <= _NO_VIDEO):
        return _Shown(round(seconds * FPS), float(FPS), _SIZE, None)
    member = files.get("mp4", _NO_VIDEO)
    media.check_whole(member)
    try:
        film = planes.Film(member)
    except media.MediaError as error:
        raise Unusable("unreadable video", where=str(member), found=str(error)) from error
    video = film.declared
    if video is None or not video.rate or not video.frames:
        raise Unusable("unreadable video", where=str(member), expected="a video stream with frames")
    if abs(video.frames / video.rate - seconds) > _APART:
        raise Unusable("lengths differ", where=str(member),
                       expected="sound and pictures that end together",
                       found=f"{seconds:.2f} s of sound, {video.frames / video.rate:.2f} s of "
                             "pictures")
    return _Shown(video.frames, video.rate, (video.width, video.height), film)


def _look(side: Side, files: Files, shown: _Shown, seconds: float, size: int) -> None:
    """Adds what is seen, up to the pictures themselves."""
    side.film, side.size = shown.film, shown.size
    names = [f"boxes_and_keypoints:{k}" for k in ("box", "is_valid_box", "keypoints")]
    box, valid, keypoints = files.arrays(*names)
    _check_shape(box, names[0], 4)
    _check_shape(keypoints, names[2], 133, 3)
    rows_K = seen.rows_at(len(keypoints), shown.frames, shown.fps, seconds, side.notes)
    limit = min(len(rows_K), side.frames, int(shown.frames * FPS / shown.fps + 1e-6))
    side.face = seen.face(box, valid, keypoints, rows_K[:limit], side.size, size, side.notes)
    side.known = side.face.known
    if files.has("npz") or files.has("smplh:is_valid"):
        _check_body(files, seconds, side.notes)


def _check_body(files: Files, seconds: float, notes: set[str]) -> None:
    try:
        rows = len(files.arrays("smplh:is_valid")[0])
    except Unusable:  # nothing here needs it
        return
    if abs(rows / seconds - FPS) > 1.0:
        notes.add(SMPLH)


def _check_shape(x: np.ndarray, name: str, *shape: int) -> None:
    if x.shape[1:] != shape or x.dtype.kind != "f":
        raise Unusable("arrays of another shape", expected=f"{name} of {('N', *shape)}, floats",
                       found=f"{x.shape} {x.dtype}")


def _both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    count = min(len(a), len(b))
    return a[:count] & b[:count]


def _parsed(member: Member, lines: bool = False):
    try:
        text = member.read().decode("utf-8-sig")
        return [json.loads(line) for line in text.splitlines() if line.strip()] if lines else \
            json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable("unreadable json", where=str(member), found=quarantine.said(error)
                       ) from error


def pair(sides: Sequence[Side]) -> np.ndarray:
    """(frames,) where all sides are known; cuts them to the same number of frames."""
    frames = min(side.frames for side in sides)
    for side in sides:
        side.frames = frames
    return np.logical_and.reduce([side.known[:frames] for side in sides])
