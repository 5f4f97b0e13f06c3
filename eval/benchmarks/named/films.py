"""Scores files that systems have generated, whatever made them: films and sounds beside the
recordings, by the metrics that need nothing but sound and pictures.

Variants of every example:
    NAME   what lies in a folder of generated files, one variant a folder
    truth  the recording itself: what a perfect system would get
The truth is the recording: FID and FVD count what a system's codecs lose, and are not the numbers
of a checkpoint's evaluation, whose truth goes through the same codecs.
"""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.common import passage
from data_pipelines.media import landmarks
from data_pipelines.media.containers import MediaError
from eval.benchmarks.named import given
from eval.benchmarks.named.declaration import Named
from eval.data import pictured
from eval.data.film import FILM, Film
from eval.data.matched import Matched
from eval.data.recorded import FACE, MIDDLE, RATE, Folder, Frame, OfClip, OfFiles, first
from eval.metrics import reactions
from eval.metrics.intelligibility import dictionary, words_of
from eval.registry import AUDIO, MOTION

APART = 0.25  # seconds by which a file may be longer or shorter, where its length is given
SHOWN_SECONDS, SHOWN_SIDE = 12, 320  # of films in the report
_AGAINST = "the recordings, by the same readers"


class Player:
    """What the report and metrics draw with, in place of a dataset's decoder."""

    draws, has_face, tells_lips, geometry = True, False, False, None
    decoding: Mapping = {}
    sample_rate, sound_by = RATE, "the recordings themselves"

    def __init__(self, fps: int):
        self.fps = fps

    def has_audio(self, streams) -> bool:
        return streams[FILM].has_audio

    def has_motion(self, streams) -> bool:
        return streams[FILM].has_motion

    def pictures(self, streams, **_) -> tuple[int, Iterator[np.ndarray]]:
        """See OfFiles.pictures."""
        return streams[FILM].recording.pictures()


class Benchmark(given.Benchmark):
    """A named benchmark of generated films and sounds.

    Args:
      named: its declaration.
      dataset: clips, or a Folder of recordings.
      matched: see given.Benchmark.
      networks: folder of published networks, "" for none.

    Raises UserError: clips that keep neither sound nor pictures, or at a rate that is no whole
    number.
    """

    baselines = ("truth",)
    kept_truths = 16  # what networks see in one may be megabytes
    common_frames = {"frames": "those that both have"}

    def __init__(self, named: Named, dataset, matched: Mapping[str, Matched], *,
                 networks: str = ""):
        self.frame = None
        if MOTION in named.made:
            self.frame = (named.frame if isinstance(dataset, Folder)
                          else frame_of(dataset, named.frame))
        super().__init__(named, Player(self.frame.fps if self.frame else 0), dataset, matched,
                         networks)
        self.free_length = named.free_length
        self.picture_fps = self.motion_fps = self.frame.fps if self.frame else 0
        kind = landmarks.KINDS[0]
        lacking = landmarks.lacking(kind)
        if self.frame and not lacking:
            self.reader = pictured.Reader(kind, self.frame.fps)
            self.has_lips, self.lip_recipe = True, self.reader.lip_recipe
        elif self.frame:
            self.not_measured = {pictured.NAMES: lacking}

    # ---- definitions

    @functools.cached_property
    def has_words(self) -> bool:
        """Whether the recogniser of words knows all that is said."""
        texts = [text for split in self.dataset.splits for text in self.labels(split)[1]]
        return all(texts) and set().union(*map(words_of, texts)) <= dictionary().keys()

    @property
    def offers(self):
        optional = {"pictures": self.frame is not None, "lips": self.has_lips,
                    "points": self.reader is not None, "words": self.has_words,
                    "length": self.free_length, "free": self.free_length}
        lacks = set() if self.frame else {MOTION, "both"}
        return (super().offers | {"waveform", "clip", "each", "warped"}
                | {need for need, offered in optional.items() if offered}) - lacks

    @property
    def smile_recipe(self) -> dict:
        """What a smile is, see eval/metrics/reactions.py."""
        return reactions.SMILES | reactions.TAU["landmarks"] | self.reader.recipe

    def recipe_of(self, metric):
        """Says that the truth is the recording, and how pictures are taken of files."""
        recipe = super().recipe_of(metric)
        recipe |= {key: _AGAINST for key in ("against", "reference") if key in recipe}
        if self.frame and {"pictures", "lips", "points"} & set(metric.needs):
            recipe |= {"taken": self.frame.recipe}
        return recipe

    # ---- variants

    def recording(self, split: str, index: int) -> OfFiles | OfClip:
        """The truth."""
        if isinstance(self.dataset, Folder):
            return OfFiles(self.dataset.files(split, index), self.frame)
        names = tuple(n for n in ("audio", "pictures") if n in self.dataset.features)
        key = "lazy", split
        if key not in self._sources:
            self._sources[key] = self.dataset.source(split, names, lazy=True)
        audio = self.dataset.features.get("audio")
        return OfClip(self._sources[key][index], audio.rate if audio else 0.0, self.frame)

    def read_at(self, split, index):
        return Film(self, self.recording(split, index), {AUDIO, MOTION})

    def baseline(self, variant, split, index):
        return self.truth(split, index)

    def model(self, streams, variant, split, index):
        files, lacking = self.files_of(variant, split, index)
        return Film(self, files and OfFiles(files, self.frame), set(self.named.made),
                    truth=self.truth(split, index), lacking=lacking)

    def score(self, split, index, signals):
        """MediaError: "too short", for a film without a picture at the benchmark's rate; "silent",
        for a track without any sound beside a recording with one; "wrong duration", for a file that
        is not as long as the recording where it must be."""
        truth = self.truth(split, index)
        own, true = signals.recording, truth.recording
        for one in (own, true):
            _ = one.has_pictures and one.count
        if signals is not truth and AUDIO in self.named.made:
            if own.has_track and not own.has_sound and true.has_sound:
                raise MediaError("silent", own.source.files[0], expected="sound",
                                 found="a silent track", hint="a mute film may have none")
        if not self.free_length and abs(own.seconds - true.seconds) > APART:
            raise MediaError("wrong duration", own.source.files[0],
                             expected=f"{true.seconds:.2f} s, as the recording",
                             found=f"{own.seconds:.2f} s",
                             hint="its length is no choice of a system here")
        return super().score(split, index, signals)

    def other(self, split: str, index: int) -> int:
        """Another example of the speaker where there is one, for SIM_other."""
        speakers, _ = self.labels(split)
        mine = [i for i, who in enumerate(speakers) if i != index and who == speakers[index]]
        return mine[int(self._draw(split, index).integers(len(mine)))] if mine else index

    def clip_audio(self, split: str, index: int) -> np.ndarray | None:
        """The recording's sound; None without one."""
        truth = self.truth(split, index)
        return truth.waveform if truth.recording.has_sound else None

    def clip_lips(self, split, index):
        """None: the truth is the recording."""
        return None

    def pictures(self, streams, identity):
        """The beginning of a film, made small, for the report."""
        if not streams[FILM].has_motion:
            return None
        _, pictures = streams[FILM].recording.pictures()
        return first(pictures, SHOWN_SECONDS * self.picture_fps, SHOWN_SIDE)


def frame_of(clips, wanted: Frame) -> Frame | None:
    """How pictures of files are taken for clips that keep pictures, as those were; None for clips
    that keep none."""
    if "pictures" not in clips.features:
        if "audio" not in clips.features:
            raise UserError("neither sound nor pictures to compare with", where=str(clips.dir),
                            expected="clips with audio or pictures, or a folder of recordings",
                            found=", ".join(clips.features))
        return None
    recipe = clips.recipes.get("pictures", {})
    rate = clips.features["pictures"].rate or wanted.fps
    if rate != int(rate):
        raise UserError("pictures at a rate that films cannot be taken at", where=str(clips.dir),
                        expected="a whole number a second", found=str(rate),
                        hint="prepare the clips with another --rate")
    crop = FACE if recipe.get("show") == passage.FACE else MIDDLE
    return Frame(int(rate), crop, int(recipe.get("size") or clips.features["pictures"].shape[1]))
