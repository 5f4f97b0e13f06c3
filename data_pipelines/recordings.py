"""A folder of someone's media -> recordings that are known to be good: one voice, one face, on one clock.

A recording is a video with its sound: the sound track inside, or a sound file of the same name beside it, which wins
(`talk.mp4` + `talk.wav`; `talk_video.mp4` + `talk_audio.wav` pair too). `talk.txt` beside them is its transcript.
The first folder below the source is the speaker; a file directly in the source is a speaker of its own.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re

import numpy as np

from avjax.codecs import mel
from avjax.errors import UserError
from data_pipelines import faces, media, text_file

FPS = 30
RATE = mel.RECIPE["sample_rate"]
SAMPLES = RATE // FPS  # a frame: 735 samples exactly, so cuts between frames are cuts between samples
MIN_SECONDS = 2.0
CROPS = ".crops.npy"
SILENCE = 10 ** (-50 / 20)  # root mean square of a recording below -50 dB of full scale
AUDIO_RECIPE = {"sample_rate": RATE, "channels": "mean", "resampler": "soxr HQ", "dtype": "int16"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Files that make one recording."""

    id: str
    speaker: str
    video: pathlib.Path | None
    audio: pathlib.Path | None  # None: the video's own track
    text: pathlib.Path | None

    @property
    def files(self) -> list[pathlib.Path]:
        return [p for p in (self.video, self.audio, self.text) if p is not None]

    def fingerprint(self, *options) -> str:
        """Changes when a file or an option does."""
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in self.files]
        return hashlib.sha256(json.dumps([stats, options]).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Recording:
    """One checked recording: N frames at 30 Hz, N * 735 samples at 22050 Hz."""

    audio: np.ndarray  # (N * 735,) int16
    crops: np.ndarray | None  # (N, size, size, 3) uint8; None without pictures
    pose: np.ndarray | None  # (N, 7) float32, see data_pipelines/faces.py


def find(folder, speaker: str | None = None) -> list[Source]:
    """Recordings of a folder, sorted by id. Raises UserError: no folder, no media, no such speaker."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), expected="a folder of wav or mp4 files",
                        way_out="check --source")
    groups: dict[tuple[str, str], dict[str, list[pathlib.Path]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        suffix = path.suffix.lower()
        kind = "video" if suffix in media.VIDEO_SUFFIXES else "audio" if suffix in media.AUDIO_SUFFIXES else \
            "text" if suffix == ".txt" else None
        if kind:
            stem = re.sub(r"[-_]?(video|audio)$", "", path.stem, flags=re.IGNORECASE) or path.stem
            parent = path.relative_to(folder).parent.as_posix()
            groups.setdefault((parent, stem), {}).setdefault(kind, []).append(path)
    sources = [s for (parent, stem), kinds in sorted(groups.items()) for s in _sources(parent, stem, kinds)]
    if not sources:
        raise UserError("no media here", where=str(folder), expected=f"files ending in "
                        f"{' '.join(media.VIDEO_SUFFIXES + media.AUDIO_SUFFIXES)}", found="none",
                        way_out="check --source")
    known = sorted({s.speaker for s in sources})
    if speaker is not None and speaker not in known:
        raise UserError("no such speaker", where="--speaker", expected=f"one of {', '.join(known)}",
                        found=repr(speaker))
    return [s for s in sources if speaker in (None, s.speaker)]


def _sources(parent: str, stem: str, kinds: dict[str, list[pathlib.Path]]):
    videos, sounds, texts = (kinds.get(k, []) for k in ("video", "audio", "text"))
    named = videos or sounds
    alone = len(named) == 1 and len(sounds) <= 1
    for path in named:
        name = stem if alone else path.name  # two files of one name: keep them apart by their suffix
        exact = [p for p in sounds if p.stem == path.stem and videos] or (sounds if alone and videos else [])
        text = [p for p in texts if p.stem == path.stem] or (texts if alone else [])
        prefix = "" if parent == "." else parent + "/"
        speaker = prefix.split("/")[0] or name
        yield Source(f"{prefix}{name}".replace("/", "."), speaker, path if videos else None,
                     (exact[0] if exact else None) if videos else path, text[0] if text else None)


def read(source: Source, *, size: int = 96, audio_only: bool = False, detect=None, crops_file=None) -> Recording:
    """Decodes and checks one recording. Raises media.MediaError or faces.FaceError, whose `reason` says why not.

    The crops, 3 GB an hour, are written to the .npy `crops_file` as they come and mapped; without one they are in memory.
    """
    try:
        text_of(source)
    except UserError as error:
        raise media.MediaError("unreadable transcript", source.text, found=str(error)) from error
    sound_path = source.audio or source.video
    probe = media.probe(source.video) if source.video else None
    if not audio_only and (probe is None or probe.video is None):
        raise media.MediaError("no video", source.files[0], expected="pictures of the speaker", found="sound only",
                               way_out="put the video beside it, or use --audio_only")
    if sound_path.suffix.lower() == ".wav":
        media.check_wav(sound_path)
    sound = media.read_audio(sound_path, RATE)
    sound_probe = media.probe(sound_path).audio
    begin = sound_probe.start if sound_probe else 0.0
    end = begin + len(sound) / RATE
    if sound_path.suffix.lower() != ".wav" and sound_probe:
        media.check_complete(sound_path, end, sound_probe)
        if sound_probe.duration:  # a lossy coder fills its last frame up
            end = min(end, begin + sound_probe.duration)
    if not audio_only:
        times = media.video_times(source.video)
        if not len(times):
            raise media.MediaError("unreadable", source.video, expected="pictures", found="none")
        video_begin, video_end = times[0], times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1 / FPS)
        media.check_complete(source.video, video_end, probe.video)
        if abs((end - begin) - (video_end - video_begin)) > max(0.3, 0.03 * (end - begin)):
            raise media.MediaError("wrong duration", source.files[0], expected="sound and pictures of equal length",
                                   found=f"{end - begin:.2f} s of sound, {video_end - video_begin:.2f} s of pictures",
                                   way_out="check that the two belong together")
        begin, end = max(begin, video_begin), min(end, video_end)
    count = int((end - begin) * FPS + 1e-3)
    if count < MIN_SECONDS * FPS:
        raise media.MediaError("too short", source.files[0], expected=f">= {MIN_SECONDS} s",
                               found=f"{count / FPS:.2f} s")
    audio = media.read_audio(sound_path, RATE, begin, begin + count / FPS)
    level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    if level < SILENCE:
        raise media.MediaError("silent", sound_path, expected="a level of -50 dB or more",
                               found=f"{20 * np.log10(max(level, 1e-6)):.0f} dB", way_out="check the microphone")
    samples = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
    if audio_only:
        return Recording(samples, None, None)
    end = begin + count / FPS
    small = (image for _, image in media.frames_at(source.video, FPS, begin, end, max_side=faces.SHRINK))
    track = faces.follow(small, FPS, detect)
    cropper = faces.Cropper(track, size, FPS)
    shape = (count, size, size, 3)
    crops = np.lib.format.open_memmap(crops_file, "w+", np.uint8, shape) if crops_file else np.empty(shape, np.uint8)
    for k, (_, image) in zip(range(count), media.frames_at(source.video, FPS, begin, end), strict=True):
        crops[k] = cropper(k, image)
    return Recording(samples, crops, track.pose())


def text_of(source: Source) -> str:
    """The transcript beside a recording on one line; "" when there is none. UserError for one that cannot be read."""
    return " ".join(text_file.read(source.text, what="transcript").split()) if source.text else ""


def cached(source: Source, folder: pathlib.Path, **options) -> pathlib.Path:
    """`read`, kept in a file that a second run finds again, the crops in another beside it; the former's path."""
    key = source.fingerprint(sorted((k, v) for k, v in options.items() if k != "detect"))
    path = folder / f"{key}.whole.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary, crops = (folder / f"{key}.part{os.getpid()}{end}" for end in (".npz", CROPS))
        try:
            recording = read(source, crops_file=crops, **options)
            np.savez(temporary, audio=recording.audio, **{} if recording.pose is None else {"pose": recording.pose})
            if crops.is_file():
                os.replace(crops, path.with_suffix(CROPS))
            os.replace(temporary, path)
        finally:
            crops.unlink(missing_ok=True)
    return path


def length(path: pathlib.Path) -> int:
    """Frames of a recording that `cached` kept, without reading its pictures."""
    with np.load(path) as arrays:
        return len(arrays["audio"]) // SAMPLES


def load(path: pathlib.Path) -> Recording:
    """A recording that `cached` kept, its crops mapped."""
    crops = path.with_suffix(CROPS)
    with np.load(path) as arrays:
        return Recording(arrays["audio"], np.load(crops, mmap_mode="r") if crops.is_file() else None, arrays.get("pose"))
