"""What benchmarks of single-speaker clips share: decoding, baselines, per-example scores and the
summary.

Variants of every held-out example, scored by the same code:
    model     what the system generated; of a system with several tasks, one variant a task, under the task's name
    truth     the example's own features through the same codecs: what a perfect model would get
    shuffled  the features of another sentence of the split (the same speaker's where there is one), cut or looped to the
              truth's length; only its length counts as it is
    mean      the mean frame of the training split; its length is the mean length there
A task is scored on what it makes: a dubbing task on sound, speech to motion on motion. Beats need
both, so what was given is taken from the truth. A system that is given no mask decides lengths
itself: its variants are then also compared along a time warping of the sound, and their lengths are
scored. Motion is scored as face (_e) and head (_h) at 30 Hz; where it is a code that nothing here
can take apart, as it is, at its own rate (_m).
Suffixes: T frames at the feature rate, N frames at 30 Hz, F face codes, P pose, M mel bands.
"""

import functools
import json
import zlib

import numpy as np

from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.systems.api import stream_names
from data_pipelines.features.common.clips import to_float
from data_pipelines.store.schema import recipe_hash
from eval import recipes, summary
from eval.metrics import alignment, beats, frechet, lips, speech
from eval.signals import AUDIO, FPS, MOTION, Signals, fit

BASELINES = ("truth", "shuffled", "mean")
MODEL = "model"  # the only variant of a system with one task
# clips of the training split that the mean frame and the beat normaliser are taken from
TRAINING_CLIPS = 64


class ClipBenchmark:
    """Scores generated clips against held-out ones. Subclasses say which parts apply and what the
    targets are.

    Args:
      config: the experiment's config (`evaluate.seed`, `evaluate.tasks`, `data.train_split` are
        read).
      decoder: data_pipelines.decode.Decoder of the dataset's codecs.
      dataset: an opened feature dataset with the system's streams, text, speaker.
      system: what is scored: its streams, its tasks and what each of them makes.
      clips: the clip dataset it was extracted from, when at hand: MCD is then also taken against
        its audio, which shows what the codec itself costs.
      full: False leaves out everything that needs a waveform (the evaluation in the loop).
    """

    name = "common"
    baselines = BASELINES
    picture_fps = FPS
    has_lips = False  # the face codes tell the lip aperture
    has_words = False  # every example has a transcript of words that the recogniser knows
    lip_recipe = lips.RECIPE
    beat_recipe = beats.RECIPE
    # the step in which the systems that are scored count lengths; None: stops are not scored
    patch_s: float | None = None

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        self.config, self.decoder, self.dataset, self.clips, self.full = config, decoder, dataset, clips, full
        self.streams = stream_names(system)
        self.models = models_of(system.tasks, tuple(config.evaluate.tasks))
        self.makes = {variant: system.makes[task] for variant, task in self.models.items()}
        self.free_length = "mask" not in system.conditions_spec
        self.rates = {k: dataset.features[k].rate for k in self.streams}
        self.sample_rate = decoder.sample_rate
        self.parts = {k: part for k, part in summary.PARTS.items()
                      if (part == "codes") != decoder.has_face}
        self.has_lips = self.has_lips and decoder.has_face
        self.seed = int(config.evaluate.seed)
        self.fields = ("id", "speaker", "text", *self.streams)
        codec = dataset.codec("pose") if "pose" in dataset.codecs else {"mean": 0.0, "std": 1.0}
        self.pose_mean = np.asarray(codec["mean"], np.float64)
        self.pose_std = np.maximum(np.asarray(codec["std"], np.float64), 1e-8)
        self._truths: dict[tuple[str, int], Signals] = {}
        self._sources: dict[tuple, object] = {}
        self._labels: dict[str, tuple[list[str], list[str]]] = {}
        self._has: dict[str, np.ndarray] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """What is scored: models first."""
        return (*self.models, *self.baselines)

    @property
    def motion_fps(self) -> float:
        """Frames a second of what motion is scored on."""
        return FPS if self.decoder.has_face else self.rates[MOTION]

    # ---- definitions that travel with the numbers

    @functools.cached_property
    def recipes(self) -> dict[str, dict]:
        """{metric: how it is made}."""
        return recipes.of(self)

    @functools.cached_property
    def recipe_hash(self) -> str:
        """Changes whenever a stored row could have come out differently for the same parameters."""
        data = {k: v for k, v in self.dataset.checksums.items() if k not in ("dataset_info.json",)}
        return recipe_hash({"recipes": self.recipes, "seed": self.seed,
                            "data": json.dumps(data, sort_keys=True),
                            "clips": recipe_hash(self.clips.checksums) if self.clips is not None
                            else None, "train_split": self.config.data.train_split,
                            "benchmark": self.name})

    # ---- data

    def source(self, split: str):
        """Examples of a split, with the fields that scoring needs."""
        return self._source(self.dataset, split,
                            tuple(f for f in self.fields if f in self.dataset.features))

    def _source(self, dataset, split: str, fields: tuple[str, ...]):
        """Sources are kept: opening one costs more than reading an example."""
        key = id(dataset), split, fields
        if key not in self._sources:
            self._sources[key] = dataset.source(split, fields)
        return self._sources[key]

    def labels(self, split: str) -> tuple[list[str], list[str]]:
        """(speakers, texts) of a split, in record order; empty strings where the dataset has
        none."""
        if split not in self._labels:
            fields = tuple(f for f in ("speaker", "text") if f in self.dataset.features)
            examples = list(self.dataset.source(split,
                                                fields)) if fields else [{}] * self.dataset.splits[
                                                    split]
            self._labels[split] = [e.get("speaker", "")
                                   for e in examples], [e.get("text", "") for e in examples]
        return self._labels[split]

    def select(self, split: str, count: int) -> list[int]:
        """Indices of the examples to score: all, or a fixed random subset (order of the id's
        checksum)."""
        ids = self.source(split).ids
        order = sorted(range(len(ids)), key=lambda i: (zlib.crc32(ids[i].encode()), ids[i]))
        return order[:count] if count else order

    def other(self, split: str, index: int) -> int:
        """Index of the sentence that stands in for `index` in the shuffled baseline; a function of
        seed and id. It has frames of every stream that `index` has."""
        speakers, texts = self.labels(split)
        ids, there = self.source(split).ids, self._there(split)
        others = [i for i in range(len(ids)) if i != index
                  and (texts[i] != texts[index] or not texts[i])
                  and (there[i] | ~there[index]).all()]
        others = [i for i in others if speakers[i] == speakers[index]] or others or [index]
        others.sort(key=ids.__getitem__)
        draw = np.random.default_rng([self.seed, zlib.crc32(ids[index].encode())])
        return others[int(draw.integers(len(others)))]

    def _there(self, split: str) -> np.ndarray:
        """(examples, streams) bool: whether an example has frames of a stream."""
        if split not in self._has:
            lengths = self.dataset.lengths(split, self.streams)
            self._has[split] = np.stack([lengths[k] > 0 for k in self.streams], axis=1)
        return self._has[split]

    def identity(self, split: str, index: int) -> dict:
        """What, beside streams, decides how an example's face is drawn: speaker and identity
        vector."""
        fields = tuple(f for f in ("speaker", "identity") if f in self.dataset.features)
        example = self._source(self.dataset, split, fields)[index]
        return {"speaker": example.get("speaker", ""), "identity": example.get("identity")}

    def pictures(self, streams: dict[str, np.ndarray], identity: dict) -> np.ndarray | None:
        """(N, H, W, 3) uint8 at 30 Hz; None where there is no motion or the decoder draws no
        faces."""
        if not self.decoder.draws or not self.decoder.has_motion(streams):
            return None
        return self.decoder.frames(streams, **identity)

    @functools.cached_property
    def _training(self) -> list[Signals]:
        source = self.source(self.config.data.train_split)
        chosen = self.select(self.config.data.train_split, TRAINING_CLIPS)
        return [Signals(self, {k: source[i][k] for k in self.streams}) for i in chosen]

    @functools.cached_property
    def mean_frame(self) -> dict[str, np.ndarray]:
        """{stream: its mean over training clips}."""
        return {k: np.concatenate([s.streams[k] for s in self._training]).mean(0, dtype=np.float64)
                for k in self.streams}

    @functools.cached_property
    def normalisers(self) -> dict[str, np.ndarray]:
        """{part: mean rate of change per coefficient over training clips}, for beat consistency."""
        moving = [s for s in self._training if s.has_motion]
        return {k: beats.mean_change([s.motion(part) for s in moving]) for k,
                part in self.parts.items()}

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words of the corpus, held-out splits included: the recogniser's grammar."""
        from eval.metrics.intelligibility import words_of
        texts = [t for split in self.dataset.splits for t in self.labels(split)[1]]
        return tuple(sorted({w for t in texts for w in words_of(t)}))

    @functools.cached_property
    def recogniser(self):
        """Of the corpus' words."""
        from eval.metrics.intelligibility import Recogniser
        return Recogniser(self.vocabulary)

    def clip_audio(self, split: str, index: int) -> np.ndarray | None:
        """The clip's own audio at `sample_rate`, when its dataset is at hand."""
        found = self._clip(split, index, "audio")
        if found is None:
            return None
        audio, rate = found
        if rate is None or rate == self.sample_rate:
            return audio
        return resampled(to_float(audio), rate, self.sample_rate)

    def clip_lips(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(aperture, mouth width) of the clip itself at 30 Hz, where they are known."""
        return None

    def _clip(self, split: str, index: int, field: str) -> tuple[np.ndarray, float | None] | None:
        """(a field of the clip, its rate) when the clip dataset is at hand and has it."""
        where = self._clip_index.get(self.source(split).ids[index])
        if where is None or field not in self.clips.features:
            return None
        return self._source(self.clips, where[0], (field,
                            ))[where[1]][field], self.clips.features[field].rate

    @functools.cached_property
    def _clip_index(self) -> dict[str, tuple[str, int]]:
        ids = self.clips.ids if self.clips is not None else {}
        return {name: (split, i) for split, names in ids.items() for i, name in enumerate(names)}

    # ---- the variants

    def model(self, streams: dict[str, np.ndarray], variant: str, split: str,
              index: int) -> Signals:
        """Signals of generated streams. Streams that the task was given are the truth's own,
        whole."""
        truth, own = self.truth(split, index), self.makes[variant]
        given = {k for k, x in streams.items() if k not in own and len(x)}
        made = {k: streams[k] for k in own if k in streams and len(streams[k])}
        has = {AUDIO: self.decoder.has_audio(made), MOTION: self.decoder.has_motion(made)}
        # the system made up what the example lacks
        if not all(len(truth.streams[k]) for k in given):
            has = dict.fromkeys(has, False)
        signals = Signals(self, made | {k: truth.streams[k] for k in given},
                          scored={part for part in has if has[part]},
                          like=None if has[AUDIO] or not given else truth)
        signals.own_length = not given
        return signals

    def truth(self, split: str, index: int) -> Signals:
        """The example's own features through the codecs; kept while they last, since all variants
        need them."""
        key = split, index
        if key not in self._truths:
            while len(self._truths) >= 128:
                self._truths.pop(next(iter(self._truths)))
            example = self.source(split)[index]
            self._truths[key] = Signals(self, {k: example[k] for k in self.streams})
        return self._truths[key]

    def baseline(self, variant: str, split: str, index: int) -> Signals:
        """Signals of "truth", "shuffled" or "mean" for one example."""
        truth = self.truth(split, index)
        lengths = {k: len(x) for k, x in truth.streams.items()}
        if variant == "truth":
            return truth
        if variant == "shuffled":
            other = self.truth(split, self.other(split, index))
            signals = Signals(self, {k: fit(other.streams[k], n) for k, n in lengths.items()})
            signals.seconds = other.seconds
            if self.full:  # one waveform for both: every frame is as many samples
                signals.waveform = fit(other.waveform, len(truth.waveform))
                signals.onsets_s = truth.onsets_s
            if self.full and self.has_words:
                signals.transcript = other.transcript
            return signals
        signals = Signals(self,
                          {k: np.broadcast_to(self.mean_frame[k],
                                              (n, len(self.mean_frame[k]))).astype(np.float32)
                           for k, n in lengths.items()})
        signals.seconds = float(np.mean([s.seconds for s in self._training]))
        if self.full:
            signals.waveform = fit(self._hum.waveform, len(truth.waveform))
        if self.full and self.has_words:
            signals.transcript = self._hum.transcript
        return signals

    @functools.cached_property
    def _hum(self) -> Signals:
        return Signals(self, {k: np.tile(v.astype(np.float32), (256, 1)) for k,
                              v in self.mean_frame.items()})

    # ---- scores

    def score(self, split: str, index: int, signals: Signals) -> dict:
        """One row: numbers and counts of one variant of one example. Plain JSON. Only what the
        variant made is scored."""
        truth = self.truth(split, index)
        row, own = {}, signals.scored & truth.scored
        if MOTION in own:
            row |= self._score_motion(signals, truth, self.clip_lips(split, index) if self.has_lips
                                      else None)
        if AUDIO in own:
            row |= self._score_audio(signals, truth, split, index)
        if self.full and own and all(s.has_audio and s.has_motion for s in (signals, truth)):
            for part in self.parts:
                row[f"BC_{part}"] = self._beats(signals, part)
                row[f"BC_{part}_gap"] = abs(row[f"BC_{part}"] - self._beats(truth, part))
        if self.free_length and signals.own_length and truth.seconds:
            error = signals.seconds - truth.seconds
            row |= {"length_error": abs(error) / truth.seconds, "length_error_signed": error
                    / truth.seconds}
            if self.patch_s:
                row["stop_within_2"] = float(abs(error) <= 2 * self.patch_s + 1e-6)
        return row

    def _score_motion(self, signals: Signals, truth: Signals, clip_lips) -> dict:
        row = {}
        for k, part in self.parts.items():
            a, b = signals.motion(part), truth.motion(part)
            enough = min(len(a), len(b)) > 2
            row.setdefault("frames", len(a))
            row[f"FD_{k}"] = frechet.frechet(a, b) if enough else np.nan
            row[f"FK_{k}"] = frechet.frechet_kinetic(a, b) if enough else np.nan
        if not self.has_lips:
            return row
        aperture, (true_aperture, width) = signals.lips[0], truth.lips
        row["lips"] = self._closures(aperture, true_aperture, width)
        if clip_lips is not None:
            row["lips_clip"] = self._closures(aperture, *clip_lips)
        if self.free_length and signals.has_audio and truth.has_audio:
            index = alignment.matching_frames(self._path(signals, truth), signals.audio_seconds,
                                              truth.audio_seconds, FPS, len(aperture),
                                              len(true_aperture))
            row["lips_dtw"] = self._closures(aperture[index], true_aperture, width)
        return row

    def _closures(self, aperture_N, true_aperture_N, width) -> dict[str, list[int]]:
        """Counts for every threshold over the frames that both have."""
        n = min(len(aperture_N), len(true_aperture_N))
        width = width[:n] if np.ndim(width) else width
        taus = sorted({self.lip_recipe["tau"], *self.lip_recipe["sweep"]})
        return {k: v.tolist() for k, v in lips.sweep(aperture_N[:n], true_aperture_N[:n], width,
                                                     taus).items()}

    def _score_audio(self, signals: Signals, truth: Signals, split: str, index: int) -> dict:
        mel_TM, true_TM = signals.mel_TM, truth.mel_TM
        n = min(len(mel_TM), len(true_TM))
        row = {"mel_L1": speech.mel_l1(mel_TM[:n], true_TM[:n])}
        if self.free_length:
            row["mel_L1_dtw"] = alignment.aligned_l1(mel_TM, true_TM, self._path(signals, truth))
        if self.full:
            row["MCD"] = speech.mcd_dtw(signals.waveform, truth.waveform, self.sample_rate)
            audio = self.clip_audio(split, index)
            if audio is not None:
                row["MCD_audio"] = speech.mcd_dtw(signals.waveform, audio, self.sample_rate)
        if self.full and self.has_words:
            from eval.metrics.intelligibility import word_errors, words_of
            reference = " ".join(words_of(self.labels(split)[1][index]))
            row["WER"] = word_errors(reference, signals.transcript)
            row["heard"] = signals.transcript
        return row

    def _path(self, signals: Signals, truth: Signals) -> np.ndarray:
        """Alignment of a variant's sound with the truth's, kept with the variant."""
        if not hasattr(signals, "path"):
            signals.path = alignment.align(signals.mel_TM, truth.mel_TM)
        return signals.path

    def _beats(self, signals: Signals, part: str) -> float:
        return beats.score(signals.onsets_s, signals.motion(self.parts[part]),
                           self.normalisers[part],
                           self.beat_recipe | {"fps": self.motion_fps})

    def frames(self, split: str, index: int, signals: Signals) -> dict[str, np.ndarray]:
        """{"face", "pose" or "codes": (frames, width), "true_face", ...}: what `summarise` pools.
        Empty when the variant's motion is not scored."""
        truth = self.truth(split, index)
        if MOTION not in signals.scored & truth.scored:
            return {}
        return {start + part: s.motion(part) for part in self.parts.values() for start,
                s in (("", signals), ("true_", truth))}

    # ---- summary

    def summarise(self, rows: list[dict], frames: list[dict[str, np.ndarray]]) -> dict[str, dict]:
        """{metric: {"value", "low", "high", "n"}} of one variant, from outputs of `score` and
        `frames`."""
        return summary.summarise(rows, frames, self.lip_recipe["tau"])

    def targets(self, summary: dict[str, dict[str, dict]]) -> list[dict]:
        """[{"metric", "target", "value", "limit", "met"}] for one split's {variant: {metric:
        entry}}."""
        return []


def models_of(tasks: tuple[str, ...], wanted: tuple[str, ...]) -> dict[str, str]:
    """{variant: task}."""
    if unknown := [task for task in wanted if task not in tasks]:
        raise UserError("unknown task", where="config.evaluate.tasks", expected=" or ".join(tasks),
                        found=", ".join(map(repr, unknown)),
                        hint="leave it empty to score all tasks")
    return {MODEL: tasks[0]} if len(tasks) == 1 else {task: task for task in wanted or tasks}
