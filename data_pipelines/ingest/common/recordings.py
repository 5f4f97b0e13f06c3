"""A folder of media -> checked recordings: one voice, one face, on one clock.

A recording is a video with its sound: the sound track inside, or a sound file of the same name
beside it, which wins (`talk.mp4` + `talk.wav`; `talk_video.mp4` + `talk_audio.wav` and
`video_talk.mp4` + `audio_talk.wav` pair too, and so do `talk/video.mp4` + `talk/audio.wav`, by the
folder's name). `talk.txt` beside them is its transcript, `talk.face.npy` a recogniser's embedding
of the face, `SPEAKER.face.npy` in the source that of all of a speaker's recordings. The first
folder below the source is the speaker; a file directly in the source is a speaker of its own.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np

from avjax.encoders import voice_activity
from avjax.errors import UserError
from avjax.signal import mel
from avjax.storage import atomic
from data_pipelines import media
from data_pipelines.ingest.common.recording import (
    FPS,
    MIN_SECONDS,
    SAMPLES,
    Recording,
    with_pictures,
)
from data_pipelines.media import archives, downmix, text_file

RATE = mel.RECIPE["sample_rate"]
AROUND = 0.2  # seconds that trimming leaves before the first word and after the last (ours)
CROPS = ".crops.npy"
# other versions may accept what these refuse
CHECKS = {"checks": 3, "av": av.__version__, "libraries": str(av.library_versions)}
# nanoseconds: the coarsest clock of a file system; what was written just before is read again
_TICK = 2 * 10**9
SILENCE = 10 ** (-50 / 20)  # root mean square of a recording below -50 dB of full scale
AUDIO_RECIPE = {"sample_rate": RATE, "channels": downmix.RECIPE, "resampler": "soxr HQ",
                "dtype": "int16"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Files that make one recording."""

    id: str
    speaker: str
    video: pathlib.Path | None
    audio: pathlib.Path | None  # None: the video's own track
    text: pathlib.Path | None
    root: pathlib.Path = pathlib.Path()  # the folder that was searched
    face: Any = None  # its embedding, where it was asked for: a file, or given_faces.Row

    @property
    def files(self) -> list[pathlib.Path]:
        every = (self.video, self.audio, self.text, self.face)
        return [p for p in every if isinstance(p, pathlib.Path)]

    def place(self, path: pathlib.Path) -> str:
        """Where one of the files is, below the folder that was searched."""
        return printable(path.relative_to(self.root).as_posix())

    def contents(self, known: dict[str, dict] | None = None) -> dict[str, dict]:
        """{place: `content` of the file}; `known`: of an earlier call. Raises OSError."""
        return {self.place(p): content(p, (known or {}).get(self.place(p))) for p in self.files}


def content(path: pathlib.Path, known: dict | None = None) -> dict:
    """SHA-256, size and times of a file; taken from `known` if it has not been written since.

    Size and time of writing alone would not do: copies have whole seconds, and anybody can set
    them.
    """
    stat, now = path.stat(), time.time_ns()
    seen = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
    if known and all(known.get(k) == v for k,
                     v in seen.items()) and known["read_ns"] > stat.st_ctime_ns + _TICK:
        return known
    with open(path, "rb") as file:
        return seen | {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "read_ns": now}


def fingerprint(contents: dict[str, dict], *options) -> str:
    """Digest of places, contents and options; moving the folder does not change it."""
    files = sorted((place, one["sha256"]) for place, one in contents.items())
    return hashlib.sha256(json.dumps([files, options]).encode()).hexdigest()[:16]


def find(folder, speaker: str | None = None, *, faces=None) -> list[Source]:
    """Recordings of a folder, sorted by id, with `faces` (given_faces.asked) their embeddings where
    they have one. Raises UserError: no folder, no media, no such speaker."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder),
                        expected="a folder of wav or mp4 files",
                        hint="check --source")
    groups: dict[tuple[str, str], dict[str, list[pathlib.Path]]] = {}
    for path in media_of(folder):
        parent = path.relative_to(folder).parent.as_posix()
        groups.setdefault((parent, stem_of(path)), {}).setdefault(_kind(path), []).append(path)
    sources = _told_apart([s for (parent, stem), kinds in groups.items()
                           for s in _sources(folder, parent, stem, kinds)])
    if not sources:
        raise UserError("no media here", where=str(folder), expected=f"files ending in "
                        f"{' '.join(media.VIDEO_SUFFIXES + media.AUDIO_SUFFIXES)}", found="none",
                        hint="check --source")
    known = sorted({s.speaker for s in sources})
    if speaker is not None and speaker not in known:
        raise UserError("no such speaker", where="--speaker", expected=f"one of {', '.join(known)}",
                        found=repr(speaker))
    if faces:
        sources = [dataclasses.replace(s, face=faces.find(folder, s.speaker, [s.id], s.video,
                                                          s.audio)) for s in sources]
    return sorted((s for s in sources if speaker in (None, s.speaker)), key=lambda s: s.id)


def face_file(root: pathlib.Path, speaker: str,
              *files: pathlib.Path | None) -> pathlib.Path | None:
    """The face embedding of a recording of these files: beside one of them, by its name, else the
    speaker's, in `root`; None where there is none."""
    beside = [path.with_name(f"{stem}.face.npy") for path in files if path
              for stem in (path.stem, stem_of(path))]
    return next((path for path in (*beside, root / f"{speaker}.face.npy")
                 if path.is_file() or _is_dangling(path)), None)


def media_of(folder: pathlib.Path,
             kind: Callable[[pathlib.Path], str | None] | None = None) -> list[pathlib.Path]:
    """The files of a folder that `kind` (media and transcripts) knows, sorted. A folder that cannot
    be listed is an error: its files are not gone."""
    kind = kind or _kind
    paths = (here / name for here, names in archives.folders(folder, hidden=True) for name in names)
    return sorted(p for p in paths if kind(p) and (p.is_file() or _is_dangling(p)))


def _is_dangling(path: pathlib.Path) -> bool:
    """Whether it is a link to nothing, which is reported as unreadable and not as absent."""
    return path.is_symlink() and not path.exists()


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 (names of older systems) are written out as
    \\xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _kind(path: pathlib.Path) -> str | None:
    kinds = {"video": media.VIDEO_SUFFIXES, "audio": media.AUDIO_SUFFIXES, "text": (".txt",)}
    suffix = path.suffix.lower()
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), None)


def stem_of(path: pathlib.Path) -> str:
    """What the names of a recording's files have in common: the name without "video" or "audio"; ""
    if that is all of it."""
    return re.sub(r"^(video|audio)([-_. ]|(?=\d)|$)|[-_. ]?(video|audio)$", "", path.stem, count=1,
                  flags=re.IGNORECASE)


def _sources(root: pathlib.Path, parent: str, stem: str,
             kinds: dict[str, list[pathlib.Path]]) -> Iterator[Source]:
    videos, sounds, texts = (kinds.get(k, []) for k in ("video", "audio", "text"))
    named = videos or sounds
    alone = len(named) == 1 and len(sounds) <= 1
    prefix = "" if parent == "." else parent + "/"
    for path in named:
        paired = bool(alone and videos and sounds)
        if paired and not stem and prefix:
            name = parent  # take/video.mp4 + take/audio.wav
        elif alone and stem and (paired or path.stem.startswith(stem)):
            name = prefix + stem
        # a file alone may be called video_2 by chance; two files of one name are told apart by
        # their suffix
        else:
            name = prefix + (path.stem if alone else path.name)
        exact = [p for p in sounds if p.stem == path.stem
                 and videos] or (sounds if alone and videos else [])
        text = [p for p in texts if p.stem == path.stem] or (texts if alone else [])
        name = printable(name)
        yield Source(name.replace("/", "."), name.split("/")[0], path if videos else None,
                     (exact[0] if exact else None) if videos else path, text[0] if text else None,
                     root)


def _told_apart(sources: list[Source]) -> list[Source]:
    """Ids that two places come to, such as ann/x.mp4 and ann.x.mp4, get a digest of the place."""
    counts = collections.Counter(s.id for s in sources)

    def unique(source: Source) -> str:
        place = source.place(source.files[0])
        return f"{source.id}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"

    return [dataclasses.replace(s, id=unique(s)) if counts[s.id] > 1 else s for s in sources]


def read(source: Source, *, audio_only: bool = False, trim: str | None = None,
         **options) -> Recording:
    """Decodes and checks one recording; `options` are those of `with_pictures`. Raises
    media.MediaError or faces.FaceError, whose `reason` says why not.

    `trim`: a voice activity (avjax.encoders.voice_activity), by which silence at both ends is cut.
    """
    try:
        text_of(source)
    except UserError as error:
        raise media.MediaError("unreadable transcript", source.text, found=str(error)) from error
    if not audio_only and source.video is None:
        raise media.MediaError("no video", source.files[0], expected="pictures of the speaker",
                               found="sound only", hint="put the video beside it, or use "
                                                        "--audio_only")
    sound_path = source.audio or source.video
    sound, begin, end = clocked(source, pictures=not audio_only)
    begin, end = max(begin, sound.start), min(end, sound.end)
    media.say(sound_path, sound)
    count = int((end - begin) * FPS + 1e-3)
    if trim and count > 0:
        first, last = _spoken(sound_path, sound.between(begin, begin + count / FPS), trim)
        begin, count = begin + first / FPS, min(last, count) - first
    if count < MIN_SECONDS * FPS:
        raise media.MediaError("too short", source.files[0], expected=f">= {MIN_SECONDS} s",
                               found=f"{count / FPS:.2f} s")
    audio = sound.between(begin, begin + count / FPS)
    check_level(audio, sound_path, hint="check the microphone")
    samples = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
    if audio_only:
        return Recording(samples, None, None)
    return with_pictures(samples, source.video, begin, **options)


def clocked(source: Source, *, pictures: bool = True) -> tuple[media.Sound, float, float]:
    """(sound at RATE, first second, last second) of what is seen or, where pictures do not count,
    heard, on the clock of that file. Raises media.MediaError: "unreadable", "truncated", "damaged",
    "no audio", "no video", "wrong duration"."""
    sound_path = source.audio or source.video
    media.check_whole(sound_path)
    sound = media.read_sound(sound_path, RATE)
    media.check_whole(sound_path, len(sound.samples) / RATE)  # FLAC says how many samples there are
    if not pictures:
        return sound, sound.start, sound.end
    first, last = shown(source.video)
    if source.audio:  # its clock is its own: it begins where the other file does
        track = media.first_time(source.video)
        sound = dataclasses.replace(sound, start=min(first, first if track is None else track))
    if abs(sound.end - last) > max(0.3, 0.03 * len(sound.samples) / RATE):
        begin = max(sound.start, first)
        raise media.MediaError("wrong duration", source.files[0],
                               expected="sound and pictures that end together",
                               found=f"sound to {sound.end - begin:.2f} s, pictures to "
                               f"{last - begin:.2f} s",
                               hint="check that the two belong together")
    return sound, first, last


def shown(path) -> tuple[float, float]:
    """(time of the first picture, end of the last one) of a video. Raises media.MediaError."""
    media.check_whole(path)
    times = media.video_times(path)
    # a film of one picture says how long it is shown
    last = np.median(np.diff(times)) if len(times) > 1 else next(media.video.shown(path))[1]
    return times[0], times[-1] + last


def check_level(audio: np.ndarray, path, hint: str = "") -> None:
    """Raises MediaError("silent")."""
    level = _level(audio)
    if level < SILENCE:
        raise media.MediaError("silent", path, expected="a level of -50 dB or more",
                               found=f"{20 * np.log10(max(level, 1e-6)):.0f} dB", hint=hint)


def audible(audio: np.ndarray) -> bool:
    """Whether there is anything in samples but silence."""
    return len(audio) > 0 and _level(audio) >= SILENCE


def _level(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def _spoken(path: pathlib.Path, audio: np.ndarray, activity: str) -> tuple[int, int]:
    """(first frame, last + 1) from the first word to the last, and a little around them."""
    found = voice_activity.speech(audio, RATE, kind=activity)
    if not len(found):
        raise media.MediaError("no speech", path, expected="somebody who speaks",
                               found=f"none, by the voice activity {activity!r}",
                               hint="take it away, or prepare without --trim_silence")
    return (max(0, math.floor((found[0, 0] - AROUND) * FPS)),
            math.ceil((found[-1, 1] + AROUND) * FPS))


def text_of(source: Source) -> str:
    """The transcript beside a recording on one line; "" when there is none. UserError for one that
    cannot be read."""
    return " ".join(text_file.read(source.text, what="transcript").split()) if source.text else ""


def cached(source: Source, folder: pathlib.Path, key: str, *, audio_only: bool = False,
           **options) -> pathlib.Path:
    """`read`, kept in a file that a second run finds again by `key`, the crops in another beside
    it; the former's path."""
    path = folder / f"{key}.whole.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            crops = None
            if not audio_only:
                crops = stack.enter_context(atomic.aside(path.with_suffix(CROPS), shared=True))
            recording = read(source, crops_file=crops, audio_only=audio_only, **options)
        with atomic.file(path, shared=True) as temporary:  # last: it promises the crops
            np.savez(temporary, audio=recording.audio, **recording.arrays())
    return path


def length(path: pathlib.Path) -> int:
    """Frames of a recording that `cached` kept, without reading its pictures."""
    with np.load(path) as arrays:
        return len(arrays["audio"]) // SAMPLES


def load(path: pathlib.Path) -> Recording:
    """A recording that `cached` kept, its crops mapped."""
    crops = path.with_suffix(CROPS)
    with np.load(path) as arrays:
        return Recording(arrays["audio"], np.load(crops, mmap_mode="r") if crops.is_file()
                         else None, arrays.get("pose"), arrays.get("landmarks"),
                         *_filtered(arrays))


def filtered(path: pathlib.Path) -> tuple[np.ndarray | None, dict[str, int]]:
    """`kept` and `cut` of a recording that `cached` kept, without reading the rest."""
    with np.load(path) as arrays:
        return _filtered(arrays)


def _filtered(arrays) -> tuple[np.ndarray | None, dict[str, int]]:
    return arrays.get("kept"), json.loads(str(arrays.get("cut", "{}")))
