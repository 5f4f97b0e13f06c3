"""Variants and definitions of benchmarks of single-speaker clips.

Variants of every held-out example, scored by the same code:
    model     what the system generated; of a system with several tasks, one variant a task
    truth     the example's own features through the same codecs: what a perfect model would get
    shuffled  the features of another sentence of the split (the same speaker's where there is one),
              cut or looped to the truth's length; its own length is what its length is scored by
    mean      the mean frame of the training split; its length is the mean length there
A task is scored on what it makes: a dubbing task on sound, speech to motion on motion. Beats need
both, so what was an input is taken from the truth. A system that is given no mask decides lengths
itself: its variants are then also compared along a time warping of the sound, and their lengths are
scored. A system that listens is also scored as
    alone     without its partner: zeros, as in training without one
    stranger  with the partner of another example
    unguided  with its partner, at guidance 1, where the config's is another
Motion is scored as face (_e) and head (_h) at 30 Hz; a code that nothing here can take
apart is scored as it is, at its own rate (_m).
"""

import functools

import numpy as np
from ml_collections import ConfigDict

from avjax.systems import api
from eval.benchmarks.common.clip_data import ClipData
from eval.data.clips import FPS, Signals, fit
from eval.metrics import beats, reactions
from eval.registry import AUDIO, MOTION

PARTNER = "partner_"  # begins the names of what is known of a partner
ALONE, STRANGER, UNGUIDED = "alone", "stranger", "unguided"


class ClipBenchmark(ClipData):
    """Scores generated clips against held-out ones (see eval.benchmarks.common.base). Subclasses
    say what their corpus has and what the targets are."""

    has_words = False  # every example has a transcript of words that the recogniser knows
    beat_recipe = beats.RECIPE
    # the step in which the systems that are scored count lengths; None: stops are not scored
    patch_s: float | None = None

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        self._generators = (None, None)  # one, and the same without guidance
        self.partner = tuple(n for n in system.conditions_spec if n.startswith(PARTNER))
        if full and self.partner:
            self.models |= dict.fromkeys(self._of_partners(config.system),
                                         next(iter(self.models.values())))
        self.makes = {variant: system.makes[task] for variant, task in self.models.items()}
        self.free_length = "mask" not in system.conditions_spec
        self.common_frames = {"frames": "those that both have"} if self.free_length else {}
        self.has_lips = self.has_lips and decoder.has_face
        if decoder.geometry and decoder.geometry.lips:
            self.has_lips = True
            self.lip_recipe = self.lip_recipe | {"read from": decoder.geometry.recipe}

    @staticmethod
    def _of_partners(system_config) -> tuple[str, ...]:
        guided = system_config.get("guidance", 1.0) != 1.0
        return (ALONE, STRANGER, *((UNGUIDED,) if guided else ()))

    # ---- definitions

    @property
    def offers(self):
        optional = {"lips": self.has_lips, "points": self.reader is not None,
                    "waveform": self.full, "words": self.has_words,
                    "pictures": self.full and self.decoder.draws,
                    "length": self.free_length, "free": self.free_length,
                    "patches": self.patch_s is not None, "turns": self.has_turns,
                    "partner": any(n.startswith(PARTNER) for n in self.dataset.features)}
        motion = "face" if self.decoder.has_face else "codes"
        return super().offers | {"clip", "each", "warped", motion} | {
            need for need, offered in optional.items() if offered}

    @property
    def smile_recipe(self) -> dict:
        """What a smile is, see eval/metrics/reactions.py."""
        if geometry := self.decoder.geometry:
            return reactions.SMILES | reactions.TAU["vertices"] | {"read from": geometry.recipe}
        kind = "landmarks" if self.reader else "puppet"
        return reactions.SMILES | reactions.TAU[kind] | (self.reader.recipe if self.reader else {})

    def motion_recipe(self, part: str) -> dict:
        """What distances of a part of motion are taken on."""
        return {"e": {"on": "face codes", "fps": FPS, "resampled": "linear on timestamps"},
                "h": {"on": "pose z-scored with the corpus' statistics", "fps": FPS},
                "m": self.spread_recipe("m")}[part]

    def spread_recipe(self, part: str) -> dict:
        """What the diversity and the beats of a part of motion are taken on."""
        return {"e": {"on": "face codes"}, "h": {"on": "z-scored pose"},
                "m": {"on": "z-scored motion codes, all numbers of a frame",
                      "fps": self.motion_fps}}[part]

    # ---- variants

    def given(self, variant, example):
        """With no partner, or with another example's, where the variant says so."""
        if variant not in (ALONE, STRANGER):
            return example
        split, index = self.place(example["id"])
        other = example if variant == ALONE else self.source_of_partners(split)[
            self.other(split, index)]
        return example | {n: np.zeros_like(example[n]) if variant == ALONE
                          else fit(other[n], len(example[n])) for n in self.partner}

    def generator_of(self, variant, generator):
        """Without a partner guidance does nothing, at twice the cost."""
        return self._unguided(generator) if variant in (ALONE, UNGUIDED) else generator

    def _unguided(self, generator):
        """Kept: each compiles its own."""
        config = ConfigDict(generator.system.config.to_dict())
        if config.get("guidance", 1.0) == 1.0:
            return generator
        if self._generators[0] is not generator:
            config.guidance = 1.0
            self._generators = generator, generator.of(api.build(config))
        return self._generators[1]

    def model(self, streams: dict[str, np.ndarray], variant: str, split: str,
              index: int) -> Signals:
        """Signals of generated streams. Streams that were an input of the task are the truth's
        own, at full length."""
        truth, own = self.truth(split, index), self.makes[variant]
        inputs = {k for k, x in streams.items() if k not in own and len(x)}
        made = {k: streams[k] for k in own if k in streams and len(streams[k])}
        has = {AUDIO: self.decoder.has_audio(made), MOTION: self.decoder.has_motion(made)}
        # the system made up what the example lacks
        if not all(len(truth.streams[k]) for k in inputs):
            has = dict.fromkeys(has, False)
        signals = Signals(self, made | {k: truth.streams[k] for k in inputs}, speaker=truth.speaker,
                          scored={kind for kind in has if has[kind]},
                          like=None if has[AUDIO] or not inputs else truth)
        signals.own_length = not inputs
        return signals

    def baseline(self, variant: str, split: str, index: int) -> Signals:
        truth = self.truth(split, index)
        lengths = {k: len(x) for k, x in truth.streams.items()}
        if variant == "truth":
            return truth
        if variant == "shuffled":
            return self._shuffled(truth, lengths, self.truth(split, self.other(split, index)))
        signals = Signals(self, {k: np.broadcast_to(x, (lengths[k], len(x))).astype(np.float32)
                                 for k, x in self.mean_frame.items()}, speaker=truth.speaker)
        signals.seconds = float(np.mean([s.seconds for s in self.training]))
        self._sound_like(signals, self._hum, truth)
        return signals

    def _shuffled(self, truth: Signals, lengths: dict[str, int], other: Signals) -> Signals:
        signals = Signals(self, {k: fit(other.streams[k], n) for k, n in lengths.items()},
                          speaker=truth.speaker)
        signals.seconds = other.seconds
        self._sound_like(signals, other, truth)
        if self.full:
            signals.onsets_s, signals.loudness = truth.onsets_s, truth.loudness
        return signals

    def _sound_like(self, signals: Signals, other: Signals, truth: Signals) -> None:
        """Takes the other's waveform, at the truth's length, and words: every frame is as many
        samples."""
        if self.full:
            signals.waveform = fit(other.waveform, len(truth.waveform))
        if self.full and self.has_words:
            signals.transcript = other.transcript

    @functools.cached_property
    def _hum(self) -> Signals:
        """The mean frame, long enough to be heard."""
        return Signals(self, {k: np.tile(v.astype(np.float32), (256, 1))
                              for k, v in self.mean_frame.items()})

    # ---- scores

    def score(self, split, index, signals):
        row = super().score(split, index, signals)
        if MOTION in signals.scored & self.truth(split, index).scored:
            row["frames"] = len(signals.motion(next(iter(self.stored_parts)))[0])
        return row

    def frames(self, split: str, index: int, signals: Signals) -> dict[str, np.ndarray]:
        """{"face", "pose" or "codes": (frames, width), "true_face", ...}; empty where the variant's
        motion is not scored."""
        truth = self.truth(split, index)
        if MOTION not in signals.scored & truth.scored:
            return {}
        return {prefix + name: x.motion(part)[0] for part, name in self.stored_parts.items()
                for prefix, x in (("", signals), ("true_", truth))}
