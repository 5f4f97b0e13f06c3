"""What benchmarks of single-speaker clips share: decoding, baselines, per-example scores and the summary.

Four variants of every held-out example are scored by the same code:
    model     what the system generated
    truth     the example's own features through the same codecs: what a perfect model would get
    shuffled  the features of another sentence of the split (the same speaker's where there is one)
    mean      the mean frame of the training split
Suffixes: T frames at the feature rate, N frames at 30 Hz, F face codes, P pose, M mel bands.
"""

import functools
import json
import zlib

import numpy as np

from data_pipelines.resample import MODES, from_features
from data_pipelines.schema import recipe_hash
from eval.metrics import beats, diversity, frechet, lips, onsets, speech

FPS = 30
VARIANTS = ("model", "truth", "shuffled", "mean")
STREAMS = ("mel", "face", "head")
TRAINING_CLIPS = 64  # clips of the training split that the mean frame and the beat normaliser are taken from
BOOTSTRAP = {"resamples": 1000, "interval": 0.95, "over": "examples", "seed": 0}


def fit(x: np.ndarray, length: int) -> np.ndarray:
    """Cuts or loops along the first axis."""
    return np.resize(x, (length, *x.shape[1:])) if len(x) else np.zeros((length, *x.shape[1:]), x.dtype)


class Signals:
    """Streams of one example and, on demand, what a listener and a viewer would get from them."""

    def __init__(self, benchmark, streams: dict[str, np.ndarray], waveform: np.ndarray | None = None):
        self.benchmark, self.streams = benchmark, streams
        if waveform is not None:
            self.waveform = waveform

    @functools.cached_property
    def face_NF(self) -> np.ndarray:
        mode = self.benchmark.dataset.recipes.get("face", {}).get("resample", MODES[0])
        return from_features(np.asarray(self.streams["face"], np.float64), FPS, mode=mode)

    @functools.cached_property
    def pose_NP(self) -> np.ndarray:
        """z-scored with the corpus' statistics, so that rotation and translation weigh alike."""
        pose = np.asarray(self.benchmark.decoder.pose(self.streams["head"]), np.float64)
        return (pose - self.benchmark.pose_mean) / self.benchmark.pose_std

    @functools.cached_property
    def waveform(self) -> np.ndarray:
        return np.asarray(self.benchmark.decoder.waveform(self.streams["mel"]), np.float32)

    @functools.cached_property
    def onsets_s(self) -> np.ndarray:
        return onsets.onset_times(self.waveform, self.benchmark.sample_rate)

    @functools.cached_property
    def lips(self) -> tuple[np.ndarray, np.ndarray | float]:
        """(aperture (N,), mouth width) at 30 Hz."""
        aperture, width = self.benchmark.decoder.lips(self.streams["face"])
        return np.asarray(aperture, np.float64), np.asarray(width, np.float64)

    @functools.cached_property
    def transcript(self) -> str:
        return self.benchmark.recogniser.transcribe(self.waveform, self.benchmark.sample_rate)


class ClipBenchmark:
    """Scores generated clips against held-out ones. Subclasses say which parts apply and what the targets are.

    Args:
      config: the experiment's config (`evaluate.seed`, `data.train_split` are read).
      decoder: data_pipelines.decode.Decoder of the dataset's codecs.
      dataset: an opened feature dataset with mel, face, head, text, speaker.
      clips: the clip dataset it was extracted from, when at hand: MCD is then also taken against its audio, which shows
        what the codec itself costs.
      full: False leaves out everything that needs a waveform (the evaluation in the loop).
    """

    name = "common"
    has_lips = False  # the face codes tell the lip aperture
    has_words = False  # every example has a transcript of words that the recogniser knows
    lip_recipe = lips.RECIPE
    beat_recipe = beats.RECIPE
    sample_rate = 22050

    def __init__(self, config, decoder, dataset, *, clips=None, full: bool = True):
        self.config, self.decoder, self.dataset, self.clips, self.full = config, decoder, dataset, clips, full
        self.seed = int(config.evaluate.seed)
        self.fields = ("id", "speaker", "text", *STREAMS)
        codec = dataset.codec("pose") if "pose" in dataset.codecs else {"mean": 0.0, "std": 1.0}
        self.pose_mean = np.asarray(codec["mean"], np.float64)
        self.pose_std = np.maximum(np.asarray(codec["std"], np.float64), 1e-8)
        self._truths: dict[tuple[str, int], Signals] = {}
        self._sources: dict[tuple, object] = {}
        self._labels: dict[str, tuple[list[str], list[str]]] = {}

    # ---- definitions that travel with the numbers

    @functools.cached_property
    def recipes(self) -> dict[str, dict]:
        """{metric: how it is made}."""
        face = frechet.RECIPE | {"on": "face codes", "fps": FPS, "resampled": "linear on timestamps"}
        pose = frechet.RECIPE | {"on": "pose z-scored with the corpus' statistics", "fps": FPS}
        clip, pool = {"pooling": "per clip, mean over clips"}, {"pooling": "all clips' frames together"}
        beat = self.beat_recipe | {"onsets": onsets.RECIPE | {"sample_rate": self.sample_rate},
                                   "audio": "the variant's own; shuffled: another sentence's motion, this one's audio"}
        out = {"mel_L1": speech.RECIPE["mel_L1"], "FD_e": face | clip, "FD_h": pose | clip, "FK_e": face | clip,
               "FK_h": pose | clip, "FD_e_pooled": face | pool, "FD_h_pooled": pose | pool,
               "Div_e": diversity.RECIPE | {"on": "face codes"}, "Div_h": diversity.RECIPE | {"on": "z-scored pose"},
               "var_e": diversity.RECIPE | {"on": "face codes"}}
        if self.full:
            out |= {"MCD": speech.RECIPE["MCD"] | {"reference": "ground truth through the same codec"},
                    "MCD_audio": speech.RECIPE["MCD"] | {"reference": "the clip's own audio"}}
            for part, motion in (("h", "z-scored pose"), ("e", "face codes")):
                out[f"BC_{part}"] = beat | {"motion": motion}
                out[f"BC_{part}_gap"] = beat | {"motion": motion, "gap": "mean over clips of |BC - truth's BC|"}
        if self.has_lips:
            out["F1_lips"] = dict(self.lip_recipe)
        if self.has_words and self.full:
            from eval.metrics import intelligibility
            out["WER"] = intelligibility.RECIPE | {"vocabulary": len(self.vocabulary),
                                                   "vocabulary_crc32": zlib.crc32(" ".join(self.vocabulary).encode())}
        return out

    @functools.cached_property
    def recipe_hash(self) -> str:
        """Changes whenever a stored row could have come out differently for the same parameters."""
        data = {k: v for k, v in self.dataset.checksums.items() if k not in ("dataset_info.json",)}
        return recipe_hash({"recipes": self.recipes, "seed": self.seed, "data": json.dumps(data, sort_keys=True),
                            "clips": recipe_hash(self.clips.checksums) if self.clips is not None else None,
                            "train_split": self.config.data.train_split, "benchmark": self.name})

    # ---- data

    def source(self, split: str):
        """Examples of a split, with the fields that scoring needs."""
        return self._source(self.dataset, split, tuple(f for f in self.fields if f in self.dataset.features))

    def _source(self, dataset, split: str, fields: tuple[str, ...]):
        """Sources are kept: opening one costs more than reading an example."""
        key = id(dataset), split, fields
        if key not in self._sources:
            self._sources[key] = dataset.source(split, fields)
        return self._sources[key]

    def labels(self, split: str) -> tuple[list[str], list[str]]:
        """(speakers, texts) of a split, in record order; empty strings where the dataset has none."""
        if split not in self._labels:
            fields = tuple(f for f in ("speaker", "text") if f in self.dataset.features)
            examples = list(self.dataset.source(split, fields)) if fields else [{}] * self.dataset.splits[split]
            self._labels[split] = [e.get("speaker", "") for e in examples], [e.get("text", "") for e in examples]
        return self._labels[split]

    def select(self, split: str, count: int) -> list[int]:
        """Indices of the examples to score: all, or a fixed random subset (order of the id's checksum)."""
        ids = self.source(split).ids
        order = sorted(range(len(ids)), key=lambda i: (zlib.crc32(ids[i].encode()), ids[i]))
        return order[:count] if count else order

    def other(self, split: str, index: int) -> int:
        """Index of the sentence that stands in for `index` in the shuffled baseline; a function of seed and id."""
        speakers, texts = self.labels(split)
        ids = self.source(split).ids
        others = [i for i in range(len(ids)) if i != index and (texts[i] != texts[index] or not texts[i])]
        others = [i for i in others if speakers[i] == speakers[index]] or others or [index]
        others.sort(key=ids.__getitem__)
        draw = np.random.default_rng([self.seed, zlib.crc32(ids[index].encode())])
        return others[int(draw.integers(len(others)))]

    def identity(self, split: str, index: int) -> dict:
        """What, beside streams, decides how an example's face is drawn: speaker and identity vector."""
        fields = tuple(f for f in ("speaker", "identity") if f in self.dataset.features)
        example = self._source(self.dataset, split, fields)[index]
        return {"speaker": example.get("speaker", ""), "identity": example.get("identity")}

    def pictures(self, streams: dict[str, np.ndarray], identity: dict) -> np.ndarray | None:
        """(N, H, W, 3) uint8 at 30 Hz; None where the decoder draws no faces."""
        draw = getattr(self.decoder, "frames", None)
        frames = draw(streams["face"], streams["head"], **identity) if draw else None
        return frames if frames is not None and len(frames) else None

    @functools.cached_property
    def _training(self) -> list[Signals]:
        source = self.source(self.config.data.train_split)
        chosen = self.select(self.config.data.train_split, TRAINING_CLIPS)
        return [Signals(self, {k: source[i][k] for k in STREAMS}) for i in chosen]

    @functools.cached_property
    def mean_frame(self) -> dict[str, np.ndarray]:
        return {k: np.concatenate([s.streams[k] for s in self._training]).mean(0, dtype=np.float64) for k in STREAMS}

    @functools.cached_property
    def normalisers(self) -> dict[str, np.ndarray]:
        """Mean rate of change per coefficient over training clips, for beat consistency."""
        return {"e": beats.mean_change([s.face_NF for s in self._training]),
                "h": beats.mean_change([s.pose_NP for s in self._training])}

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words of the corpus, held-out splits included: the recogniser's grammar."""
        from eval.metrics.intelligibility import words_of
        texts = [t for split in self.dataset.splits for t in self.labels(split)[1]]
        return tuple(sorted({w for t in texts for w in words_of(t)}))

    @functools.cached_property
    def recogniser(self):
        from eval.metrics.intelligibility import Recogniser
        return Recogniser(self.vocabulary)

    # ---- the four variants

    def truth(self, split: str, index: int) -> Signals:
        """The example's own features through the codecs; kept while they last, since three variants need them."""
        key = split, index
        if key not in self._truths:
            while len(self._truths) >= 128:
                self._truths.pop(next(iter(self._truths)))
            example = self.source(split)[index]
            self._truths[key] = Signals(self, {k: example[k] for k in STREAMS})
        return self._truths[key]

    def baseline(self, variant: str, split: str, index: int) -> Signals:
        """Signals of "truth", "shuffled" or "mean" for one example."""
        truth = self.truth(split, index)
        length = len(truth.streams["mel"])
        if variant == "truth":
            return truth
        if variant == "shuffled":
            other = self.truth(split, self.other(split, index))
            signals = Signals(self, {k: fit(other.streams[k], length) for k in STREAMS})
            if self.full:  # one waveform for both: frame t is samples 256 t .. 256 t + 255
                signals.waveform = fit(other.waveform, len(truth.waveform))
                signals.onsets_s = truth.onsets_s
            if self.full and self.has_words:
                signals.transcript = other.transcript
            return signals
        signals = Signals(self, {k: np.broadcast_to(v, (length, len(v))).astype(np.float32)
                                 for k, v in self.mean_frame.items()})
        if self.full:
            signals.waveform = fit(self._hum.waveform, len(truth.waveform))
        if self.full and self.has_words:
            signals.transcript = self._hum.transcript
        return signals

    @functools.cached_property
    def _hum(self) -> Signals:
        return Signals(self, {"mel": np.tile(self.mean_frame["mel"].astype(np.float32), (256, 1))})

    def model(self, streams: dict[str, np.ndarray]) -> Signals:
        """Signals of generated streams."""
        return Signals(self, streams)

    # ---- scores

    def score(self, split: str, index: int, signals: Signals) -> dict:
        """One row: numbers and counts of one variant of one example. Plain JSON."""
        truth = self.truth(split, index)
        face, pose, true_face, true_pose = _same_length(signals.face_NF, signals.pose_NP, truth.face_NF, truth.pose_NP)
        row = {"frames": len(face), "mel_L1": speech.mel_l1(signals.streams["mel"], truth.streams["mel"]),
               "FD_e": frechet.frechet(face, true_face), "FD_h": frechet.frechet(pose, true_pose),
               "FK_e": frechet.frechet_kinetic(face, true_face), "FK_h": frechet.frechet_kinetic(pose, true_pose)}
        if self.has_lips:
            (aperture, _), (true_aperture, width) = signals.lips, truth.lips
            n = min(len(aperture), len(true_aperture))
            width = width[:n] if np.ndim(width) else width
            taus = sorted({self.lip_recipe["tau"], *self.lip_recipe["sweep"]})
            row["lips"] = {k: v.tolist() for k, v in lips.sweep(aperture[:n], true_aperture[:n], width, taus).items()}
        if self.full:
            row["MCD"] = speech.mcd_dtw(signals.waveform, truth.waveform, self.sample_rate)
            audio = self.clip_audio(split, index)
            if audio is not None:
                row["MCD_audio"] = speech.mcd_dtw(signals.waveform, audio, self.sample_rate)
            for part, motion, true_motion in (("h", pose, true_pose), ("e", face, true_face)):
                row[f"BC_{part}"] = self._beats(signals, motion, part)
                row[f"BC_{part}_gap"] = abs(row[f"BC_{part}"] - self._beats(truth, true_motion, part))
        if self.full and self.has_words:
            from eval.metrics.intelligibility import word_errors, words_of
            reference = " ".join(words_of(self.labels(split)[1][index]))
            row["WER"] = word_errors(reference, signals.transcript)
            row["heard"] = signals.transcript
        return row

    def _beats(self, signals: Signals, motion_ND: np.ndarray, part: str) -> float:
        return beats.score(signals.onsets_s, motion_ND, self.normalisers[part], self.beat_recipe)

    def clip_audio(self, split: str, index: int) -> np.ndarray | None:
        """The clip's own audio, when its dataset is at hand."""
        where = self._clip_index.get(self.source(split).ids[index])
        return self._source(self.clips, where[0], ("audio",))[where[1]]["audio"] if where else None

    @functools.cached_property
    def _clip_index(self) -> dict[str, tuple[str, int]]:
        ids = self.clips.ids if self.clips is not None else {}
        return {name: (split, i) for split, names in ids.items() for i, name in enumerate(names)}

    # ---- summary

    def summarise(self, rows: list[dict], frames: list[tuple[np.ndarray, ...]]) -> dict[str, dict]:
        """{metric: {"value", "low", "high", "n"}} of one variant.

        Args:
          rows: outputs of `score`.
          frames: per example (face (N, F), pose (N, P), true face, true pose), for the pooled metrics.
        """
        out = {}
        if self.has_lips:
            counts = {tau: np.array([r["lips"][tau] for r in rows]) for tau in rows[0]["lips"]}
            out["F1_lips"] = _interval(counts[f"{self.lip_recipe['tau']:g}"], _f1)
            out["F1_lips"]["sweep"] = {tau: float(_f1(c)) for tau, c in counts.items()}
        for metric in ("FD_e", "FD_h", "FK_e", "FK_h", "BC_h", "BC_e", "BC_h_gap", "BC_e_gap", "mel_L1", "MCD",
                       "MCD_audio"):
            if metric in rows[0]:
                values = np.array([np.nan if r[metric] is None else r[metric] for r in rows], np.float64)
                out[metric] = _interval(values[np.isfinite(values)], _mean)
        if "WER" in rows[0]:
            keys = ("substitutions", "deletions", "insertions", "hits")
            counts = np.array([[r["WER"][k] for k in keys] for r in rows])
            out["WER"] = _interval(counts, _wer)
        face, pose, true_face, true_pose = (np.concatenate(x) for x in zip(*frames, strict=True))
        pooled = {"FD_e_pooled": frechet.frechet(face, true_face), "FD_h_pooled": frechet.frechet(pose, true_pose),
                  "Div_e": diversity.div(face), "Div_h": diversity.div(pose), "var_e": diversity.var_g(face)}
        return out | {k: {"value": v, "n": len(rows)} for k, v in pooled.items()}

    def frames(self, split: str, index: int, signals: Signals) -> tuple[np.ndarray, ...]:
        """What `summarise` pools."""
        truth = self.truth(split, index)
        return _same_length(signals.face_NF, signals.pose_NP, truth.face_NF, truth.pose_NP)

    def targets(self, summary: dict[str, dict[str, dict]]) -> list[dict]:
        """[{"metric", "target", "value", "limit", "met"}] for one split's {variant: {metric: entry}}."""
        return []


def _same_length(*arrays):
    n = min(len(x) for x in arrays)
    return tuple(x[:n] for x in arrays)


def _interval(values: np.ndarray, statistic) -> dict:
    """Value with a percentile bootstrap interval over examples (the first axis).

    `statistic` maps (..., n, columns) to (...): all resamples go through it at once.
    """
    values = values[:, None] if values.ndim == 1 else values
    out = {"value": float(statistic(values)), "n": len(values)}
    if len(values) < 3:
        return out
    draw = np.random.default_rng(BOOTSTRAP["seed"]).integers(0, len(values), (BOOTSTRAP["resamples"], len(values)))
    low, high = np.nanpercentile(statistic(values[draw]), [2.5, 97.5])
    return out | {"low": float(low), "high": float(high)}


def _mean(values_nC):
    return values_nC[..., 0].mean(-1) if values_nC.shape[-2] else np.nan


def _f1(counts_nC):
    return lips.f1(np.moveaxis(counts_nC.sum(-2), -1, 0))


def _wer(counts_nC):
    """Of substitutions, deletions, insertions, hits."""
    s, d, i, h = np.moveaxis(counts_nC.sum(-2), -1, 0)
    return (s + d + i) / np.maximum(s + d + h, 1)
