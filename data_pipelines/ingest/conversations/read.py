"""One conversation, decoded and checked: every speaker on one clock, N frames at 30 Hz and N * 735
samples at 22 050 Hz.

`cached` keeps that in a folder, from which clips are written once all conversations are there:

    KEY.json             speakers, events, words, what was measured and mended; written last
    KEY.0.npz, ...       audio, pose and landmarks of each speaker, KEY.0.crops.npy the pictures
"""

import dataclasses
import json
import pathlib

import numpy as np

from avjax.encoders import voice_activity
from avjax.storage import atomic
from data_pipelines.ingest.common import given_faces, recordings
from data_pipelines.ingest.common.recordings import FPS, RATE
from data_pipelines.ingest.conversations import checks, clocks, mixture, said
from data_pipelines.ingest.conversations.find import MOST, Conversation, Speaker, named
from data_pipelines.media import faces, transcripts
from data_pipelines.media.transcripts import Said
from data_pipelines.store.dataset import Unusable

APART = 1.0  # seconds by which sound and pictures, and files that no sound ties, may differ
BLEED = "bleed louder than -20 dB"
CORRECTED = "offset corrected"
TRIMMED = "cut to what all files cover"


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What `cached` kept: said.Told, with names of the speakers and `notes`, lines for a reader."""

    id: str
    names: tuple[str, ...]
    frames: int
    utterances: list[list]
    words: list[list]
    activity: list[list]
    has_text: bool
    mended: tuple[str, ...]
    notes: tuple[str, ...]
    file: pathlib.Path
    faces: list[list[float]] | None = None  # embeddings, where they were asked for

    @property
    def seconds(self) -> float:
        return self.frames / FPS

    def speaker(self, k: int) -> recordings.Recording:
        """Audio, crops (mapped) and pose of speaker k."""
        return recordings.load(_file(self.file, k))


def _file(file: pathlib.Path, k: int) -> pathlib.Path:
    return file.with_name(f"{file.stem}.{k}.npz")


def load(file: pathlib.Path) -> Decoded:
    """What `cached` kept."""
    kept = json.loads(file.read_text())
    kept |= {name: tuple(kept[name]) for name in ("names", "mended", "notes")}
    return Decoded(**kept, file=file)


def cached(found: Conversation, folder: pathlib.Path, key: str, *, size: int, audio_only: bool,
           activity: str, landmarks: str | None = None, faces: int = 0,
           detect=None) -> pathlib.Path:
    """Decodes and checks a conversation, unless that is done; the file to `load`. `faces`: numbers
    of a face embedding.

    Raises store.Unusable, media.MediaError, faces.FaceError, transcripts.TranscriptError: why it
    cannot be used.
    """
    file = folder / f"{key}.json"
    if file.is_file():
        return file
    if found.reason:
        raise Unusable(found.reason, where=found.id, **found.details)
    folder.mkdir(parents=True, exist_ok=True)
    heard = _heard(found, audio_only, voice_activity.Detector.parse(activity))
    for k, (video, begin, samples) in enumerate(heard.seen):
        _keep(_file(file, k), samples, video, begin, size=size, detect=detect, landmarks=landmarks)
    kept = {"id": found.id, "names": heard.names, "frames": heard.frames,
            **{n: getattr(heard.told, n) for n in ("utterances", "words", "activity", "has_text")},
            "mended": list(dict.fromkeys((*heard.mended, *heard.told.mended))),
            "notes": [*found.remarks, *heard.notes]}
    kept |= {"faces": [given_faces.read(face, faces, found.root).tolist()
                       for face in heard.faces]} if faces else {}
    atomic.write(file, json.dumps(kept), shared=True)
    return file


def _keep(path: pathlib.Path, samples, video, begin: float, **shown) -> None:
    if path.is_file():
        return
    arrays = {}
    if video is not None:
        with atomic.aside(path.with_suffix(recordings.CROPS), shared=True) as crops:
            try:
                arrays = recordings.with_pictures(samples, video, begin, crops_file=crops,
                                                  **shown).arrays()
            except faces.FaceError as error:
                raise Unusable(error.reason, where=video.name, found=str(error)) from error
    with atomic.file(path, shared=True) as temporary:
        np.savez(temporary, audio=samples, **arrays)


@dataclasses.dataclass
class _Heard:
    """seen: of every speaker (video or None, begin on its clock, samples int16)."""

    names: list[str]
    frames: int
    seen: list[tuple]
    told: said.Told
    mended: list[str]
    notes: list[str]
    faces: list[pathlib.Path | given_faces.Row | None]


def _heard(found: Conversation, audio_only: bool, detector) -> _Heard:
    mended, notes = [], []
    recorded = found
    if found.mixed and not found.speakers:  # all of them in one track
        recorded = dataclasses.replace(found, speakers=(Speaker("", "", None, found.mixed, 0),))
    parts = clocks.tracks(recorded)
    apart = clocks.align(recorded, parts)
    notes += [a.line() for a in apart]
    mended += [CORRECTED] if any(a.corrected for a in apart) else []
    begin, frames = _window(found, parts, apart, mended)
    seconds = frames / FPS
    audio = [p.sound.between(begin - p.sound_shift, begin - p.sound_shift + seconds) for p in parts]
    told = said.read(found, [p.sound.end for p in parts[:len(found.speakers)]],
                     [p.sound_shift for p in parts[:len(found.speakers)]], parts[0].sound.end)
    speakers = list(found.speakers)
    if found.mixed:
        speakers, audio = _taken_apart(found, told, audio[0], begin, seconds, mended, notes)
        if len(parts) != len(speakers):
            parts = parts[:1] * len(speakers)
    elif found.by_order:
        speakers, audio, told = _ordered(found, told, audio, parts, begin, notes)
    labels = [s.label for s in speakers]
    common = {} if found.mixed else checks.apart(audio)
    checks.check(audio, labels, common, found.id)
    if not found.mixed and not found.by_order and told:
        said.check_swapped(told, labels, audio, begin, found.id)
    if not found.mixed:
        notes += _bleeding(audio, common, labels, mended)
    names = [s.name for s in speakers]
    if len(set(names)) < len(names):
        raise Unusable("names that repeat", where=found.id, expected="a name of its own of every "
                       "speaker, in letters and digits", found=", ".join(labels),
                       hint="give one another name in the transcript")
    samples = [np.clip(np.round(a * 32767), -32768, 32767).astype(np.int16) for a in audio]
    seen = [(None if audio_only else s.video, begin - p.video_shift, x)
            for s, p, x in zip(speakers, parts, samples, strict=True)]
    told = said.told(told, labels, audio, begin, seconds, detector)
    return _Heard(names, frames, seen, told, mended, notes, [s.face for s in speakers])


def _window(found: Conversation, parts, apart, mended: list[str]) -> tuple[float, int]:
    """(begin on the common clock, frames) of what all files cover.

    Raises Unusable: lengths differ, too short."""
    spans = {}
    for p in parts:
        sound = p.speaker.sound or p.speaker.video
        spans[found.place(sound)] = (p.sound.start + p.sound_shift, p.sound.end + p.sound_shift)
    for p in parts:
        if p.shown is None:
            continue
        shown = tuple(t + p.video_shift for t in p.shown)
        own = (p.sound.start + p.sound_shift, p.sound.end + p.sound_shift)
        if abs(own[1] - shown[1]) > APART and p.speaker.sound is None:
            _differ(found, p.speaker.video.name, own, "its sound", shown, "its pictures")
        spans[found.place(p.speaker.video) + " (pictures)"] = shown
    begin = max(a for a, _ in spans.values())
    end = min(b for _, b in spans.values())
    tied = {a.file for a in apart if a.offset.known}
    first, reference = next(iter(spans.items()))
    for name, span in spans.items():
        if name.removesuffix(" (pictures)") in tied:
            continue
        if abs(span[1] - reference[1]) > APART or abs(span[0] - reference[0]) > APART:
            _differ(found, found.id, reference, first, span, name)
    frames = int((end - begin) * FPS + 1e-3)
    if frames < recordings.MIN_SECONDS * FPS:
        raise Unusable("too short", where=found.id,
                       expected=f">= {recordings.MIN_SECONDS} s that all files cover",
                       found=f"{max(frames, 0) / FPS:.2f} s")
    if max(abs(x - y) for span in spans.values()
           for x, y in zip(span, (begin, end), strict=True)) > APART:
        mended.append(TRIMMED)
    return begin, frames


def _differ(found, where: str, a, of_a: str, b, of_b: str) -> None:
    raise Unusable("lengths differ", where=where,
                   expected=f"files that begin and end together, within {APART:g} s",
                   found=f"{of_a} from {a[0]:.2f} to {a[1]:.2f} s, {of_b} from {b[0]:.2f} to "
                         f"{b[1]:.2f} s",
                   hint="check that they belong together, or cut them to the same stretch")


def _taken_apart(found: Conversation, told, audio_N, begin: float, seconds: float, mended, notes):
    """(speakers, a channel of each) of a mixture."""
    names = said.names_of(told)
    if any(s.start is None for s in told) or not told:
        raise Unusable("one channel for all speakers", where=found.id,
                       expected="a channel each, or a transcript that has times",
                       found="a transcript without times" if told else "no transcript",
                       hint="give separate recordings, or RTTM, STM, TextGrid or WebVTT")
    if not 2 <= len(names) <= MOST:
        raise Unusable("one speaker" if len(names) < 2 else "too many speakers", where=found.id,
                       expected=f"two to {MOST} in the transcript",
                       found=f"{len(names)}: {', '.join(names[:8])}")
    speakers = list(found.speakers) or [Speaker(n, named(found.id, n)) for n in names]
    spans = [[(s.start - begin, s.end - begin) for s in told if s.speaker == one.label]
             for one in speakers]
    audio, at_once = mixture.cut(audio_N, spans, RATE)
    mended.append(mixture.CUT)
    notes.append(f"{found.place(found.mixed)}: {mixture.CUT}; {at_once:.1f} of {seconds:.1f} s "
                 "have several voices at once, which stay together")
    return speakers, audio


def _ordered(found: Conversation, told: list[Said], audio, parts, begin: float, notes):
    """(speakers, channels in their order, what is said by these) of a file with a channel a
    speaker: by the sound of the speakers' videos, by the transcript's times, else by order; which
    of these is said. Raises Unusable: unknown speaker, channels swapped."""
    names = said.names_of(told)
    speakers = list(found.speakers)
    if all(s.video is None for s in speakers) and len(names) == len(speakers):
        speakers = [dataclasses.replace(s, label=n, name=named(found.id, n))
                    for s, n in zip(speakers, names, strict=True)]
    labels = [s.label for s in speakers]
    known = {transcripts.folded(label): label for label in labels}
    if unknown := [n for n in names if transcripts.folded(n) not in known]:
        raise Unusable("unknown speaker", where=found.id, expected=", ".join(labels),
                       found=f"{', '.join(unknown)} in the transcript",
                       hint="give the files the speakers' names, or the transcript the files'")
    told = [dataclasses.replace(s, speaker=known[transcripts.folded(s.speaker)]) if s.speaker else s
            for s in told]
    order, by = clocks.owners(parts), "the sound of the videos"
    if order is not None:
        said.check_swapped(told, labels, [audio[c] for c in order], begin, found.id)
    else:
        order, _ = said.owners(told, labels, audio, begin) if names else (None, 0.0)
        by = "the transcript's times"
    if order is None:
        order, by = list(range(len(labels))), "their order, since nothing tells"
    owned = ", ".join(f"{c + 1} is {labels[s]}" for s, c in sorted(enumerate(order),
                                                                   key=lambda x: x[1]))
    notes.append(f"{found.place(speakers[0].sound)}: channel {owned}, by {by}")
    return speakers, [audio[c] for c in order], told


def _bleeding(audio, common: checks.Apart, labels, mended: list[str]) -> list[str]:
    found = checks.bleed(audio, common)
    out = [f"bleed: {labels[i]} is heard at {found[i, j]:.0f} dB in the channel of {labels[j]}"
           for i, j in np.argwhere(np.nan_to_num(found, nan=-np.inf) > checks.BLEED)]
    mended += [BLEED] if out else []
    return out
