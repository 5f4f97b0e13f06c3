"""Two (or more) people who talk to each other: a channel and a face each, scored as dialogue.

Variants of every held-out dialogue, by the same code:
    avatar     faces and voices from the true units of all channels: comparable with the truth frame by frame
    speech     units and voices from the text alone: turn-taking and length
    dialogue   the same with faces
    truth      the example's own mel and motion
    codec      the true latents, decoded and read again: what a perfect renderer would get
    shuffled   another dialogue of the split, cut or looped to the truth's length
    mean       the mean frame of the training split
    blur_1...  of a system that makes voices of portraits alone: from blurred or rotated ones
Motion is a face code and a pose at 25 Hz, read from the pictures by the dataset's face reader where
it is not known. Lips are scored where the face code tells their aperture: that of puppets does.

Does a listener react to *its* partner? Listening is scored on frames where the truth's partner
speaks and the truth's self is
silent: FD (of each clip, and pooled), paired FD, RPCC, and SID and variance beside the truth's
(DIM). `RPCC_other` pairs the same motion with the partners of other dialogues, `PFD_shuffled` with
the own partner's frames of another time (a stranger's would differ in themselves): what the measure
is worth when the reaction is to something else.
"""

import functools
import json
import zlib

import numpy as np
from scipy.cluster.vq import kmeans2

from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.systems.api import stream_names
from data_pipelines.store.schema import recipe_hash
from eval import summary
from eval.benchmarks.common import models_of
from eval.dialogues import FPS, POSE, Dialogue, own_parts
from eval.metrics import frechet, lips, listener, retrieval, speech, turns
from eval.signals import AUDIO, MOTION, fit

TRAINING_DIALOGUES = 16  # of the training split, that the mean frame is taken from
MOST_CHANCE = 0.1  # of the first place, for it to say much that it is five times as likely
STRANGERS = 4  # dialogues whose partners a motion is paired with for `*_other`
LEAST_FRAMES = 13  # half a second of listening; less tells nothing
TURNS = ("ipu", "turn", "gap", "pause", "overlap")
SID_CLUSTERS = {"e": 40, "h": 20}  # DIM's, of the truth


def face_encoder(decoder):
    """What made the dataset's face embeddings."""
    return portrait.from_recipe(decoder.recipes["faces"], decoder.codecs.get("faces"))


def degradable(system, decoder) -> bool:
    """Whether a system makes voices, and nothing else, of portraits whose face embedding can be
    made again."""
    made = {name for names in system.makes.values() for name in names}
    return (made == {"voices"} and "portraits" in system.example_spec
            and decoder.recipes.get("faces", {}).get("kind") == "pca")


def timing(signals: Dialogue) -> dict[str, list[float]]:
    """{"<event>_s": durations} in seconds, and "transfer_s": floor transfer offsets."""
    out = {f"{name}_s": turns.durations(signals.events, name) for name in TURNS}
    out["transfer_s"] = turns.floor_transfers(signals.speech)
    return {name: spans.round(3).tolist() for name, spans in out.items()}


class Benchmark:
    """See eval.benchmarks.common.ClipBenchmark, whose interface this has."""

    name = "dialogue"
    baselines = ("truth", "codec", "shuffled", "mean")
    has_words = False
    lip_recipe = lips.RECIPE | {"fps": FPS}
    picture_fps = motion_fps = FPS

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        del clips  # everything is scored from the features; no waveform is needed
        self.config, self.decoder, self.dataset = config, decoder, dataset
        if "motion" not in dataset.features:
            raise UserError("nothing to compare faces with", where=str(dataset.dir),
                            expected="a feature 'motion'", found=", ".join(dataset.features),
                            hint="extract with a face reader, or set no benchmark")
        self.models = models_of(system.tasks, tuple(config.evaluate.tasks))
        if full and degradable(system, decoder):
            task = next(iter(self.models.values()))
            self.models |= {name: task for name in retrieval.DEGRADATIONS if name != "clean"}
        self.makes = {variant: system.makes[task] for variant, task in self.models.items()}
        self.streams = tuple(n for n in dict.fromkeys(("mel", *stream_names(system)))
                             if n in dataset.features)
        if "latents" not in self.streams:  # of a system that makes no pictures
            self.baselines = tuple(b for b in self.baselines if b != "codec")
        self.rates = {name: feature.rate for name, feature in dataset.features.items()
                      if feature.rate}
        self.has_lips = decoder.face_kind == "puppet"
        self.sample_rate, self.seed = decoder.sample_rate, int(config.evaluate.seed)
        self._truths: dict[tuple[str, int], Dialogue] = {}
        self._sources: dict[str, object] = {}

    @property
    def variants(self) -> tuple[str, ...]:
        """What is scored: models first."""
        return (*self.models, *self.baselines)

    @functools.cached_property
    def recipes(self) -> dict[str, dict]:
        """{metric: recipe}."""
        listening = listener.RECIPE | {"frames": "25 Hz, the true partner speaks and the true self "
                                       "is silent",
                                       "RPCC_other": f"partners of {STRANGERS} other dialogues, "
                                       "averaged",
                                       "PFD_shuffled": "the partner's frames rolled by half",
                                       "SID": SID_CLUSTERS}
        timing = turns.RECIPE | {"W1_s": "first Wasserstein distance to the truth's, all dialogues "
                                 "of the split together"}
        own = {"F1_lips": dict(self.lip_recipe)} if self.has_lips else {}
        return {**own, "FD": frechet.RECIPE | {"pooling": "per speaker and dialogue, then mean"},
                "listening": listening, "turn-taking": timing, "mel_L1": speech.RECIPE["mel_L1"],
                "retrieval": retrieval.RECIPE,
                "motion": {"of": "face reader", **self.decoder.recipes.get("reader", {}),
                           "truth": "the corpus' own"}}

    @functools.cached_property
    def recipe_hash(self) -> str:
        """Changes whenever a stored row could have come out differently for the same parameters."""
        data = {k: v for k, v in self.dataset.checksums.items() if k != "dataset_info.json"}
        return recipe_hash({"recipes": self.recipes, "seed": self.seed,
                            "data": json.dumps(data, sort_keys=True),
                            "train_split": self.config.data.train_split, "benchmark": self.name})

    # ---- data

    def source(self, split: str):
        """Examples of a split, with the fields that scoring needs."""
        if split not in self._sources:
            fields = ("id", "text", "speakers", "motion", "voices", *self.streams)
            fields = dict.fromkeys(f for f in fields if f in self.dataset.features)
            self._sources[split] = self.dataset.source(split, fields)
        return self._sources[split]

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a benchmark lives as long as the job)
    def labels(self, split: str) -> tuple[list[str], list[str]]:
        """(names, texts) of a split, in record order."""
        rows = list(self.dataset.source(split, ("id", "text")))
        return [row["id"] for row in rows], [row["text"] for row in rows]

    def select(self, split: str, count: int) -> list[int]:
        """Indices of the examples to score: all whose faces are known, or a fixed random subset of
        them."""
        ids, seen = self.source(split).ids, self.dataset.lengths(split, ("motion",))["motion"] > 0
        order = sorted(np.flatnonzero(seen).tolist(),
                       key=lambda i: (zlib.crc32(ids[i].encode()), ids[i]))
        return order[:count] if count else order

    def others(self, split: str, index: int, count: int) -> list[int]:
        """Other dialogues of the split, a function of seed and id."""
        ids = self.source(split).ids
        rest = sorted((i for i in self.select(split, 0) if i != index), key=ids.__getitem__)
        draw = np.random.default_rng([self.seed, zlib.crc32(ids[index].encode())])
        return [rest[i] for i in draw.permutation(len(rest))[:count]] or [index]

    def identity(self, split: str, index: int) -> dict:
        """Pictures are decoded, not drawn: nothing is needed."""
        return {}

    def pictures(self, streams, identity=None) -> np.ndarray | None:
        """All faces side by side, (T, H, S W, 3) uint8 at `picture_fps`; None where there are
        none."""
        if not len(streams.get("latents", ())):
            return None
        return np.concatenate([self.decoder.frames(party)
                               for party in self.decoder.speakers(streams)], axis=2)

    # ---- the variants

    def given(self, variant: str, example: dict) -> dict:
        """What a variant is generated from: the example, or it with worse portraits and their face
        embeddings."""
        if variant not in retrieval.DEGRADATIONS:
            return example
        worse = np.stack([retrieval.DEGRADATIONS[variant](picture)
                          for picture in example["portraits"]])
        return example | {"portraits": worse, "faces": face_encoder(self.decoder)(worse)}

    def model(self, streams, variant: str, split: str, index: int) -> Dialogue:
        """What was generated."""
        made = self.makes[variant]
        return Dialogue(self.decoder, streams, own_parts(streams, made), own_timing="units" in made)

    def truth(self, split: str, index: int) -> Dialogue:
        """The example's own streams and motion."""
        key = split, index
        if key not in self._truths:
            while len(self._truths) >= 64:
                self._truths.pop(next(iter(self._truths)))
            row = self.source(split)[index]
            streams = {k: row[k] for k in (*self.streams, "motion", "voices") if k in row}
            self._truths[key] = Dialogue(self.decoder, streams, {AUDIO, MOTION})
        return self._truths[key]

    def baseline(self, variant: str, split: str, index: int) -> Dialogue:
        """One of `baselines` for one example."""
        truth = self.truth(split, index)
        if variant == "truth":
            return truth
        if variant == "codec":
            return Dialogue(self.decoder,
                            {k: x for k, x in truth.streams.items()
                             if k not in ("motion", "voices")}, {MOTION})
        if variant == "shuffled":
            other = self.truth(split, self.others(split, index, 1)[0])
            return Dialogue(self.decoder,
                            {k: fit(other.streams[k], len(truth.streams[k]))
                             for k in ("mel", "motion")},
                            {AUDIO, MOTION})
        return Dialogue(self.decoder, {k: np.broadcast_to(x, (len(truth.streams[k]), *x.shape))
                                       for k, x in self.mean_frame.items()}, {AUDIO, MOTION})

    @functools.cached_property
    def mean_frame(self) -> dict[str, np.ndarray]:
        """{stream: (S, width)} of the training split, the same for every speaker."""
        source = self.source(self.config.data.train_split)
        rows = [source[i] for i in range(min(TRAINING_DIALOGUES, len(source)))]
        speakers = rows[0]["mel"].shape[1]
        return {k:
                np.repeat(np.concatenate([r[k].reshape(-1, r[k].shape[-1])
                                          for r in rows]).mean(0)[None], speakers, 0)
                for k in ("mel", "motion")}

    # ---- scores

    def score(self, split: str, index: int, signals: Dialogue) -> dict:
        """One row of one variant: plain JSON."""
        truth, row = self.truth(split, index), {}
        if AUDIO in signals.scored:
            row |= turns.rates(signals.events, signals.total_ms)
            row |= timing(signals) | {f"true_{name}": spans for name,
                                      spans in timing(truth).items()}
            row["seconds"] = signals.total_ms / 1000
            row["length_error"] = abs(signals.total_ms - truth.total_ms) / truth.total_ms
            if self._aligned(signals, truth):
                n = min(len(signals.mel_TM), len(truth.mel_TM))
                row["mel_L1"] = speech.mel_l1(signals.mel_TM[:n], truth.mel_TM[:n])
        if MOTION in signals.scored:
            parts = {"FD_e": slice(None, -POSE), "FD_h": slice(-POSE, None)}
            row |= {name: float(np.mean([frechet.frechet(a[:, part], b[:, part]) for a, b in
                                         zip(signals.motion_STM, truth.motion_STM, strict=True)]))
                    for name, part in parts.items()}
            if self.has_lips and self._aligned(signals, truth):
                row["lips"] = self._closures(signals, truth)
        if len(signals.streams.get("voices", ())):
            example = self.source(split)[index]
            row["voices"] = {"names": json.loads(example["speakers"]),
                             "made": signals.streams["voices"].round(5).tolist(),
                             "true": example["voices"].round(5).tolist()}
        return row

    @staticmethod
    def _aligned(signals: Dialogue, truth: Dialogue) -> bool:
        """Frame by frame comparable: not of what decided its own timing, however long it is."""
        return not signals.own_timing and abs(signals.seconds - truth.seconds) < 0.1

    def _closures(self, signals: Dialogue, truth: Dialogue) -> dict[str, list[int]]:
        """Counts for every threshold, over all speakers."""
        taus, totals = sorted({self.lip_recipe["tau"], *self.lip_recipe["sweep"]}), {}
        for (aperture, _), (true_aperture, width) in zip(signals.apertures, truth.apertures,
                                                         strict=True):
            n = min(len(aperture), len(true_aperture))
            width = width[:n] if np.ndim(width) else width
            for tau, counts in lips.sweep(aperture[:n], true_aperture[:n], width, taus).items():
                totals[tau] = totals.get(tau, 0) + counts
        return {tau: counts.tolist() for tau, counts in totals.items()}

    def frames(self, split: str, index: int, signals: Dialogue) -> dict[str, np.ndarray]:
        """For every speaker s: own_s, true_s (frames, M) while listening, partner_s, and
        `other<k>_s`: who is listened to."""
        truth = self.truth(split, index)
        if MOTION not in signals.scored or not self._aligned(signals, truth):
            return {}
        strangers = [self.truth(split, i) for i in self.others(split, index, STRANGERS)]
        out, count = {}, min(min(map(len, signals.motion_STM)), min(map(len, truth.motion_STM)))
        speaking = truth.speaking(count)
        for s in range(len(speaking)):
            partner = next(p for p in range(len(speaking)) if p != s)
            listening = ~speaking[s] & np.delete(speaking, s, axis=0).any(0)
            if listening.sum() < LEAST_FRAMES:
                continue
            pick = {"own": signals.motion_STM[s][:count], "true": truth.motion_STM[s][:count],
                    "partner": truth.motion_STM[partner][:count]}
            pick |= {f"other{k}": fit(x.motion_STM[partner], count) for k,
                     x in enumerate(strangers)}
            out |= {f"{name}_{s}": x[listening] for name, x in pick.items()}
        return out

    # ---- summary

    def summarise(self, rows: list[dict], frames: list[dict[str, np.ndarray]]) -> dict[str, dict]:
        """{metric: {"value", ...}} of one variant."""
        out = {}
        for name in ("FD_e", "FD_h", "mel_L1", "length_error"):
            if values := [r[name] for r in rows if r.get(name) is not None]:
                out[name] = summary.interval(np.array(values, np.float64), summary.mean)
        if counted := [r["lips"] for r in rows if "lips" in r]:
            counts = {t: np.array([c[t] for c in counted]) for t in counted[0]}
            out["F1_lips"] = summary.interval(counts[f"{self.lip_recipe['tau']:g}"], summary.f1)
        minutes = sum(r.get("seconds", 0.0) for r in rows) / 60
        if minutes:
            for name in TURNS:
                spans = [len(r[f"{name}_s"]) for r in rows if f"{name}_s" in r]
                out[f"{name}_per_minute"] = {"value": sum(spans) / minutes, "n": sum(spans)}
            for name in (*TURNS, "transfer"):
                own, true = (np.concatenate([r[of] for r in rows if of in r])
                             for of in (f"{name}_s", f"true_{name}_s"))
                out[f"{name}_mean_s"] = {"value": float(own.mean()) if len(own) else np.nan,
                                         "n": len(own)}
                out[f"{name}_W1_s"] = {"value": turns.distance(own, true), "n": len(own)}
        return out | self._listening(frames) | self._retrieval(rows)

    @staticmethod
    def _listening(frames) -> dict[str, dict]:
        """Of all speakers of all dialogues."""
        pick = {}
        for clip in frames:
            for key, x in clip.items():
                pick.setdefault(key.rsplit("_", 1)[0], []).append(np.asarray(x, np.float64))
        if "own" not in pick:
            return {}
        out, count = {}, len(pick["own"])
        for suffix, part in (("e", slice(None, -POSE)), ("h", slice(-POSE, None))):
            x = {name: [clip[:, part] for clip in clips] for name, clips in pick.items()}
            others = [clips for name, clips in x.items() if name.startswith("other")
                      and len(clips) == count]
            truth = np.concatenate(x["true"])
            distinct = len(np.unique(truth, axis=0))
            clusters, _ = kmeans2(truth, min(SID_CLUSTERS[suffix], distinct), minit="++", seed=0)
            values = {"FD_listen_{}": listener.fd(x["own"], x["true"]),
                      "FD_listen_{}_pooled": frechet.frechet(np.concatenate(x["own"]), truth),
                      "SID_{}": listener.sid(x["own"], clusters),
                      "var_listen_{}": listener.variance(x["own"]),
                      "PFD_{}": listener.pfd(x["own"], x["true"], x["partner"]),
                      "RPCC_{}": listener.rpcc(x["own"], x["true"], x["partner"])}
            rolled = [np.roll(clip, len(clip) // 2, axis=0) for clip in x["partner"]]
            values["PFD_{}_shuffled"] = listener.pfd(x["own"], x["true"], rolled, x["partner"])
            if others:
                values |= {"RPCC_{}_other":
                           np.mean([listener.rpcc(x["own"], x["true"], o, x["partner"])
                                    for o in others])}
            out |= {name.format(suffix): {"value": float(value), "n": count} for name,
                    value in values.items()}
        return out

    @staticmethod
    def _retrieval(rows) -> dict[str, dict]:
        """Face to voice, over all speakers of the split."""
        found = [r["voices"] for r in rows if "voices" in r]
        if not found:
            return {}
        names = [name for f in found for name in f["names"]]
        made, true = (retrieval.by_identity(np.concatenate([np.asarray(f[which]) for f in found]),
                                            names)[0]
                      for which in ("made", "true"))
        return {f"voice_{name}": {"value": float(value), "n": len(made)} for name,
                value in retrieval.scores(made, true).items()}

    def targets(self, summary: dict[str, dict[str, dict]]) -> list[dict]:
        """What a model that has learned must reach on a held-out split (ours by choice)."""
        def value(variant, metric):
            return summary.get(variant, {}).get(metric, {}).get("value", np.nan)

        out = []

        def add(metric, text, found, limit, met):
            if np.isfinite(found) and np.isfinite(limit):
                out.append({"metric": metric, "target": text, "value": float(found),
                            "limit": float(limit), "met": bool(met)})

        for model in self.models:
            f1 = value(model, "F1_lips")
            add(f"{model} F1_lips", ">= 0.8 of the codec's", f1, 0.8 * value("codec", "F1_lips"),
                f1 >= 0.8 * value("codec", "F1_lips"))
            for metric in ("FD_listen_e", "FD_listen_h", "RPCC_e", "RPCC_h", "mel_L1"):
                found, limit = value(model, metric), value("shuffled", metric)
                add(f"{model} {metric}", "< shuffled's", found, limit, found < limit)
            for metric in ("PFD_e", "PFD_h"):
                found, limit = value(model, metric), value(model, f"{metric}_shuffled")
                add(f"{model} {metric}", "< 0.9 of that with shuffled partners", found, 0.9 * limit,
                    found < 0.9 * limit)
            for name in ("gap", "overlap", "pause", "turn"):
                metric = f"{name}_per_minute"
                found, true = value(model, metric), value("truth", metric)
                add(f"{model} {metric}", "within a third of the truth's", found, true,
                    abs(found - true) <= max(true / 3, 1))
            found, chance = value(model, "voice_R@1"), value(model, "voice_chance@1")
            if chance <= MOST_CHANCE:
                add(f"{model} voice_R@1", ">= 5x chance", found, 5 * chance, found >= 5 * chance)
        return out
