"""The data side of benchmarks of single-speaker clips: labels, another sentence, what is taken from
the training split, and the clips that the features were extracted from."""

import functools
import json

import numpy as np

from avjax.signal.resample import resampled
from avjax.systems.api import stream_names
from data_pipelines.features.common.clips import to_float
from data_pipelines.store.schema import recipe_hash
from eval.benchmarks.common.base import Benchmark
from eval.data import pictured
from eval.data.clips import FPS, Signals
from eval.metrics import beats
from eval.metrics.intelligibility import Recogniser, words_of
from eval.registry import MOTION

# clips of the training split that the mean frame and the beat normaliser are taken from
TRAINING_CLIPS = 64
_STORED = {"e": "face", "h": "pose", "m": "codes"}


class ClipData(Benchmark):
    """Reads clips; see ClipBenchmark."""

    picture_fps = FPS

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        self.streams = stream_names(system)
        self.fields = ("id", "speaker", "text", *self.streams)
        self.rates = {k: dataset.features[k].rate for k in self.streams}
        self.stored_parts = {k: name for k, name in _STORED.items()
                             if (k == "m") != decoder.has_face}
        codec = dataset.codec("pose") if "pose" in dataset.codecs else {"mean": 0.0, "std": 1.0}
        self.pose_mean = np.asarray(codec["mean"], np.float64)
        self.pose_std = np.maximum(np.asarray(codec["std"], np.float64), 1e-8)
        self._has: dict[str, np.ndarray] = {}

    @property
    def motion_fps(self) -> float:
        """Frames a second of what motion is scored on."""
        return FPS if self.decoder.has_face else self.rates[MOTION]

    def _row_recipe(self):
        clips = recipe_hash(self.clips.checksums) if self.clips is not None else None
        return super()._row_recipe() | {"clips": clips}

    def read(self, example):
        return Signals(self, {k: example[k] for k in self.streams},
                       speaker=example.get("speaker", ""))

    def other(self, split: str, index: int) -> int:
        """Index of the example that replaces `index` in the shuffled baseline: another sentence, of
        the same speaker where there is one, with frames of every stream that `index` has. Depends
        on the seed and the id only."""
        speakers, texts = self.labels(split)
        ids, has = self.source(split).ids, self._has_frames(split)
        others = [i for i in range(len(ids)) if i != index
                  and (texts[i] != texts[index] or not texts[i])
                  and (has[i] | ~has[index]).all()]
        others = [i for i in others if speakers[i] == speakers[index]] or others or [index]
        others.sort(key=ids.__getitem__)
        return others[int(self._draw(split, index).integers(len(others)))]

    def _has_frames(self, split: str) -> np.ndarray:
        """(examples, streams) bool."""
        if split not in self._has:
            lengths = self.dataset.lengths(split, self.streams)
            self._has[split] = np.stack([lengths[k] > 0 for k in self.streams], axis=1)
        return self._has[split]

    def identity(self, split: str, index: int) -> dict:
        """Speaker and identity vector, which decide how the face is drawn."""
        example = self._source(self.dataset, split, ("speaker", "identity"))[index]
        return {"speaker": example.get("speaker", ""), "identity": example.get("identity")}

    def pictures(self, streams: dict[str, np.ndarray], identity: dict) -> np.ndarray | None:
        if not self.decoder.draws or not self.decoder.has_motion(streams):
            return None
        return self.decoder.frames(streams, **identity)

    # ---- the training split

    @functools.cached_property
    def training(self) -> list[Signals]:
        """Some clips of the training split, of those that have frames of every stream if there are
        any: with most motion left out (`speech_only`), the first of all may well have none."""
        split = self.config.data.train_split
        source, whole = self.source(split), self._has_frames(split).all(1)
        order = self.select(split, 0)
        order = [i for i in order if whole[i]] or order
        return [self.read(source[i]) for i in order[:TRAINING_CLIPS]]

    @functools.cached_property
    def mean_frame(self) -> dict[str, np.ndarray]:
        """{stream: its mean over training clips}."""
        return {k: np.concatenate([s.streams[k] for s in self.training]).mean(0, dtype=np.float64)
                for k in self.streams}

    @functools.cached_property
    def normalisers(self) -> dict[str, np.ndarray]:
        """{part of motion: mean rate of change a coefficient over training clips}, for beats; NaN
        where none has motion."""
        moving = [s for s in self.training if s.has_motion]
        return {part: beats.mean_change([x for s in moving for x in s.motion(part)])
                if moving else np.full(1, np.nan) for part in self.stored_parts}

    # ---- partners

    def place(self, name: str) -> tuple[str, int]:
        """(split, index) of the example of an id."""
        return self._places[name]

    @functools.cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        return _places(self.dataset)

    def source_of_partners(self, split: str):
        """Examples of a split with nothing but their partners."""
        return self._source(self.dataset, split, tuple(n for n in self.dataset.features
                                                       if n.startswith("partner_")))

    # ---- words

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words of the corpus, held-out splits included: the recogniser's grammar."""
        texts = [t for split in self.dataset.splits for t in self.labels(split)[1]]
        return tuple(sorted({w for t in texts for w in words_of(t)}))

    @functools.cached_property
    def recogniser(self) -> Recogniser:
        """Of the corpus' words."""
        return Recogniser(self.vocabulary)

    # ---- the clips themselves

    def clip_audio(self, split: str, index: int) -> np.ndarray | None:
        """The clip's own audio at `sample_rate`; None where its dataset is not at hand."""
        found = self.clip(split, index, "audio")
        if found is None:
            return None
        audio, rate = found
        if rate is None or rate == self.sample_rate:
            return audio
        return resampled(to_float(audio), rate, self.sample_rate)

    def clip_lips(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(aperture, mouth width) of the clip itself at 30 Hz, where they are known."""
        found = self.reader and self.clip(split, index, pictured.COLUMN)
        own = found and self.reader.given(*found)
        return (own.aperture, own.width) if own else None

    def clip(self, split: str, index: int, field: str) -> tuple[np.ndarray, float | None] | None:
        """(a field of the clip, its rate); None where its dataset is not at hand or lacks it."""
        where = self._clip_index.get(self.source(split).ids[index])
        if where is None or field not in self.clips.features:
            return None
        clip_split, clip_index = where
        example = self._source(self.clips, clip_split, (field,))[clip_index]
        return example[field], self.clips.features[field].rate

    @property
    def has_turns(self) -> bool:
        """Whether clips say who has the floor."""
        return self.clips is not None and {"events", "side"} <= self.clips.features.keys()

    def listening(self, split: str, index: int, frames: int) -> np.ndarray | None:
        """(frames,) bool at `motion_fps`: in a turn of the partner's and in none of one's own, by
        the clip's events; None where it is not at hand."""
        floor = self._floor(split, index, frames)
        return None if floor is None else floor[0] & ~floor[1]

    def speaking(self, split, index, frames):
        floor = self._floor(split, index, frames) if self.has_turns else None
        return None if floor is None else floor[1:]

    def _floor(self, split: str, index: int, frames: int) -> np.ndarray | None:
        """(2, frames) bool: in a turn of the partner's, in one of one's own."""
        found = [self.clip(split, index, field) for field in ("events", "side")]
        if None in found:
            return None
        time, floor = np.arange(frames) / self.motion_fps, np.zeros((2, frames), bool)
        for event in json.loads(found[0][0]):
            if event["kind"] == "turn":
                mine = int(event["speaker"] == int(found[1][0]))
                floor[mine] |= (time >= event["start"]) & (time < event["end"])
        return floor

    @functools.cached_property
    def _clip_index(self) -> dict[str, tuple[str, int]]:
        return _places(self.clips) if self.clips is not None else {}


def _places(dataset) -> dict[str, tuple[str, int]]:
    return {name: (split, i) for split, names in dataset.ids.items()
            for i, name in enumerate(names)}
