"""Two to four people in conversation: a channel and a face each, scored as dialogue.

Variants of every held-out dialogue, by the same code:
    avatar     faces and voices from the true units of all channels: comparable with the truth frame
               by frame
    speech     units and voices from the text alone: turn-taking and length
    dialogue   the same with faces
    truth      the example's own mel and motion
    codec      the true latents, decoded and read again: what a perfect renderer would get
    shuffled   another dialogue of the split, cut or looped to the truth's length
    mean       the mean frame of the training split
    blur_1...  of a system that makes voices of portraits alone: from blurred or rotated ones
Each speaker's channel is also heard alone, and its pictures are seen alone (see
eval.benchmarks.common.speakers): MCD of what has the truth's timing, words of puppets, and what
published networks say. Each mouth is held against the speaker's own channel (AV_offset), which is
the truth's where a variant makes no sound. The shuffled baseline has the other dialogue's sound;
its mouths are held against the truth's.

Motion is a face code and a pose at 25 Hz, read from the pictures by the dataset's face reader where
it is not known. Lips are scored where the face code tells their aperture (that of puppets does), or
landmarks of the pictures do, of clips that have them.

Does a listener react to *its* partner? Listening is scored on frames where the truth's partner
speaks and the truth's self is silent: FD (of each clip, and pooled), paired FD, RPCC, and SID and
variance beside the truth's (DIM). Of three people or more everybody is paired with each of the
others; results.json and the tables also have RPCC, paired FD and floor transfers of each pair.
`RPCC_other` pairs the same motion with the partners of other
dialogues, `PFD_shuffled` with the own partner's frames of another time (a stranger's would differ
in themselves): what the measure is worth when the reaction is to something else.
"""

import contextlib
import functools
import itertools
import json

import numpy as np

from avjax.encoders import portrait
from avjax.encoders.plain_text import plain
from avjax.encoders.voice_activity import Detector
from avjax.errors import UserError
from avjax.signal.resample import resampled
from avjax.storage import failures
from avjax.systems.api import stream_names
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.tavid import script
from data_pipelines.features.tavid.conversations import speaker_prefixes
from eval.benchmarks.common import speakers
from eval.benchmarks.common.base import Benchmark as Base
from eval.benchmarks.common.targets import Targets
from eval.data.clips import fit
from eval.data.conversations import COLUMNS, FPS, Conversation, made_kinds, side_by_side
from eval.metrics import lips, retrieval
from eval.metrics.intelligibility import Recogniser, words_of
from eval.metrics.listener import STRANGERS
from eval.registry import AUDIO, MOTION, Case

ENERGY = "energy"  # of the mel, which needs no waveform
TRAINING_DIALOGUES = 16  # of the training split, that the mean frame is taken from
MOST_CHANCE = 0.1  # of the first place, for five times as likely to mean much
LEAST_FRAMES = 13  # half a second of listening; less is not scored
MOST_WARPED = 30.0  # seconds; the table of a warping grows with the square
HUM = 256  # frames of the mean frame that are made into sound
# Rows are kept under a hash of these names: metrics that share a definition were named by it
_ROW_NAMES = {"FD_e": "FD", "FD_h": "FD"}
_FAMILIES_OF_ROWS = ("listening", "turn-taking", "retrieval")
_NOT_IN_ROW_HASH = ("length_error",)


def face_encoder(decoder):
    """What made the dataset's face embeddings."""
    return portrait.from_recipe(decoder.recipes["faces"], decoder.codecs.get("faces"))


def _turns(text: str, names: list[str]) -> list[str]:
    """What each of the speakers says by a script, in its order; nothing where it is none of
    theirs."""
    known, said = list(map(plain, names)), [""] * len(names)
    with contextlib.suppress(UserError, ValueError):
        found = script.parse(text)
        for turn in (one for t in found.turns for one in (t, *t.backchannels)):
            said[known.index(found.names[turn.speaker])] += f" {turn.text}"
    return [words.strip() for words in said]


def degradable(system, decoder) -> bool:
    """Whether a system makes voices, and nothing else, of portraits whose face embedding can be
    made again."""
    made = {name for names in system.makes.values() for name in names}
    return (made == {"voices"} and "portraits" in system.example_spec
            and decoder.recipes.get("faces", {}).get("kind") == "pca")


class Benchmark(Base):
    """Scores conversations: from the features alone in the loop, else also what is heard and seen
    of each speaker."""

    name = "dialogue"
    baselines = ("truth", "codec", "shuffled", "mean")
    label_field = "id"
    lip_recipe = lips.RECIPE | {"fps": FPS}
    picture_fps = motion_fps = FPS
    pooling_of_motion = "per speaker and dialogue, then mean"
    columns = COLUMNS
    kept_truths = 64

    def __init__(self, config, decoder, dataset, system, *, clips=None, full: bool = True):
        super().__init__(config, decoder, dataset, system, clips=clips, full=full)
        self.has_faces = "motion" in dataset.features
        if not self.has_faces and any(set(made) - {"voices"} for made in system.makes.values()):
            raise UserError("nothing to compare faces with", where=str(dataset.dir),
                            expected="a feature 'motion'", found=", ".join(dataset.features),
                            hint="extract with a face reader, or set no benchmark")
        if full and degradable(system, decoder):
            task = next(iter(self.models.values()))
            self.models |= {name: task for name in retrieval.DEGRADATIONS if name != "clean"}
        self.parties = dataset.features["motion" if self.has_faces else "mel"].shape[1]
        activity = getattr(config.evaluate, "activity", ENERGY)
        self.detector = None if activity == ENERGY else Detector.parse(
            activity, where="config.evaluate.activity")
        self.makes = {variant: system.makes[task] for variant, task in self.models.items()}
        self.streams = tuple(n for n in dict.fromkeys(("mel", *stream_names(system)))
                             if n in dataset.features)
        self.fields = tuple(n for n in ("id", "text", "speakers", "motion", "voices", *self.streams)
                            if n in dataset.features)
        if not self.has_faces:
            self.baselines = ("truth",)
        elif "latents" not in self.streams:  # of a system that makes no pictures
            self.baselines = tuple(b for b in self.baselines if b != "codec")
        self.rates = {name: feature.rate for name, feature in dataset.features.items()
                      if feature.rate}
        self.has_lips = decoder.face_kind == "puppet"
        if full and not self.has_lips:
            self.read_pictures("latents" in self.streams)
        made = set().union(*self.makes.values())
        self.heard = full and "mel" in made
        # mouths move beside sound, their own or the truth's
        self.seen_speaking = full and not made.isdisjoint(("latents", "motion"))
        self._said: dict[str, list[tuple[list[str], list[str]]]] = {}
        self.has_words = self.heard and decoder.face_kind == "puppet" and bool(self.vocabulary)

    # ---- definitions

    @property
    def offers(self):
        return super().offers | {"conversation", "face", "length", "voices"} | (
            {"lips"} if self.has_lips else set()) | ({"points"} if self.reader else set()) | (
            {"waveform", "each"} if self.heard or self.seen_speaking else set()) | (
            {"warped"} if self.heard else set()) | (
            {"words"} if self.has_words else set()) | (
            {"pictures", "each"} if self.full and "latents" in self.streams else set())

    def offered(self, signals: Conversation, truth: Conversation) -> set[str]:
        out = super().offered(signals, truth)
        if AUDIO in out and (not self.aligned(signals, truth) or truth.seconds > MOST_WARPED):
            out.discard("warped")
        if not all(len(x.streams.get("latents", ())) for x in (signals, truth)):
            out.discard("pictures")
        return out

    def sounds(self, signals: Conversation) -> list[np.ndarray]:
        """Of each speaker."""
        return [speaker.waveform for speaker in signals.alone] if self.heard else []

    @property
    def _possible(self):
        """Without what judges a speaker's sound, where the system makes none."""
        return [m for m in super()._possible
                if self.heard or AUDIO not in m.needs or not speakers.of_one(m)]

    def recipe_of(self, metric):
        return super().recipe_of(metric) | (speakers.RECIPE if speakers.of_one(metric) else {})

    def motion_recipe(self, part: str) -> dict:
        """Said once for all of them, under "motion"."""
        return {}

    @functools.cached_property
    def recipes(self):
        """Also under the names of families that share one definition."""
        own = {m.name: self.recipe_of(m) for m in self.metrics}
        return own | self._shared_recipes(own)

    def _shared_recipes(self, own: dict[str, dict]) -> dict[str, dict]:
        families = {m.name: m.family for m in self.metrics if m.family in _FAMILIES_OF_ROWS}
        names = families | _ROW_NAMES
        return {names.get(name, name): recipe for name, recipe in own.items()
                if name not in _NOT_IN_ROW_HASH} | {
            **({"activity": self.detector.recipe} if self.detector else {}),
            "motion": {"of": "face reader", **self.decoder.recipes.get("reader", {}),
                       "truth": "the corpus' own"}}

    def _row_recipe(self):
        own = {m.name: self.recipes[m.name] for m in self.metrics}
        return super()._row_recipe() | {"recipes": self._shared_recipes(own)}

    # ---- data

    def _candidates(self, split):
        """Examples whose faces are known; all where none are."""
        if not self.has_faces:
            return super()._candidates(split)
        return np.flatnonzero(self.dataset.lengths(split, ("motion",))["motion"] > 0).tolist()

    def others(self, split: str, index: int, count: int) -> list[int]:
        """Other dialogues of the split; depends on the seed and the id only."""
        ids = self.source(split).ids
        rest = sorted((i for i in self.select(split, 0) if i != index), key=ids.__getitem__)
        order = self._draw(split, index).permutation(len(rest))
        return [rest[i] for i in order[:count]] or [index]

    def said(self, split: str) -> list[tuple[list[str], list[str]]]:
        """(names, what each says) in every dialogue, of the first speaker, the second, ..."""
        if split not in self._said:
            fields = tuple(n for n in ("speakers", "text") if n in self.dataset.features)
            names, texts = [], self.labels(split)[1]
            for index in range(len(texts)):
                example = {}
                with failures.tolerated(index, lambda *_: None):  # it fails when it is scored
                    example = self._source(self.dataset, split, fields)[index]
                names.append(json.loads(example.get("speakers", "[]")))
            said = map(_turns, texts, names)
            self._said[split] = [tuple(map(list, zip(*of, strict=True))) for of in
                                 itertools.zip_longest(*map(zip, names, said),
                                                       fillvalue=("", ""))]
        return self._said[split]

    @functools.cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words of the corpus, held-out splits included: the recogniser's grammar."""
        return tuple(sorted({word for split in self.dataset.splits for _, texts in self.said(split)
                             for text in texts for word in words_of(text)}))

    @functools.cached_property
    def recogniser(self) -> Recogniser:
        """Of the corpus' words."""
        return Recogniser(self.vocabulary)

    def recorded(self, split: str, index: int, speaker: int) -> np.ndarray | None:
        """A speaker's channel of the clip at `sample_rate`; None where its dataset is not at hand,
        or the dialogue is a piece of a clip."""
        if self.clips is None:
            return None
        where = self._clip_index.get(self.source(split).ids[index])
        if where is None:
            return None
        field = f"{speaker_prefixes(self.clips)[speaker]}audio"
        audio = self._source(self.clips, where[0], (field,))[where[1]][field]
        return resampled(to_float(audio), self.clips.features[field].rate, self.sample_rate)

    @functools.cached_property
    def _clip_index(self) -> dict[str, tuple[str, int]]:
        return {name: (split, i) for split, names in self.clips.ids.items()
                for i, name in enumerate(names)}

    def identity(self, split, index):
        """Whose puppets are drawn, where motion is all there is to see."""
        if "latents" in self.streams or "identity" not in self.dataset.features:
            return {}
        return {"identity": self._source(self.dataset, split, ("identity",))[index]["identity"]}

    def pictures(self, streams, identity):
        return side_by_side(self.decoder, streams, identity.get("identity"))

    # ---- variants

    def speaking(self, split, index, frames):
        return self.truth(split, index).speaking(frames)

    def given(self, variant: str, example: dict) -> dict:
        """The example, or it with worse portraits and their face embeddings."""
        if variant not in retrieval.DEGRADATIONS:
            return example
        worse = np.stack([retrieval.DEGRADATIONS[variant](picture)
                          for picture in example["portraits"]])
        return example | {"portraits": worse, "faces": face_encoder(self.decoder)(worse)}

    def model(self, streams, variant: str, split: str, index: int) -> Conversation:
        """What its task makes; faces alone are heard with the truth's sound, which they were made
        for."""
        made = self.makes[variant]
        kinds, given = made_kinds(streams, made), {}
        if self.full and kinds == {MOTION}:
            truth = self.truth(split, index)
            streams, given = streams | {"mel": truth.streams["mel"]}, {"like": truth}
        return Conversation(self.decoder, streams, kinds, own_timing="units" in made, **given,
                            **self._read_by)

    def read(self, example):
        streams = {k: example[k] for k in (*self.streams, "motion", "voices") if k in example}
        return Conversation(self.decoder, streams, {AUDIO, MOTION} if self.has_faces else {AUDIO},
                            **self._read_by)

    def baseline(self, variant: str, split: str, index: int) -> Conversation:
        truth = self.truth(split, index)
        if variant == "truth":
            return truth
        if variant == "codec":
            streams = {k: x for k, x in truth.streams.items() if k not in ("motion", "voices")}
            return Conversation(self.decoder, streams, {MOTION}, like=truth, **self._read_by)
        if variant == "shuffled":
            other = self.truth(split, self.others(split, index, 1)[0])
            streams = {k: fit(other.streams[k], len(truth.streams[k])) for k in ("mel", "motion")}
        else:
            other = self._hum
            streams = {k: np.broadcast_to(x, (len(truth.streams[k]), *x.shape))
                       for k, x in self.mean_frame.items()}
        return Conversation(self.decoder, streams, {AUDIO, MOTION}, like=other, mouths_beside=truth,
                            **self._read_by)

    @functools.cached_property
    def _hum(self) -> Conversation:
        """The mean frame, long enough to be heard."""
        mel_TSB = np.repeat(self.mean_frame["mel"][None], HUM, 0)
        return Conversation(self.decoder, {"mel": mel_TSB}, {AUDIO}, **self._read_by)

    @property
    def _read_by(self) -> dict:
        return {"detector": self.detector, "reader": self.reader, "hear": self._hear}

    def _hear(self, wave_N: np.ndarray, rate: int) -> str:
        return self.recogniser.transcribe(wave_N, rate)

    @functools.cached_property
    def mean_frame(self) -> dict[str, np.ndarray]:
        """{stream: (S, width)} of the training split, the same for every speaker."""
        source = self.source(self.config.data.train_split)
        rows = [source[i] for i in range(min(TRAINING_DIALOGUES, len(source)))]
        speakers = rows[0]["mel"].shape[1]
        means = {k: np.concatenate([r[k].reshape(-1, r[k].shape[-1]) for r in rows]).mean(0)
                 for k in ("mel", "motion")}
        return {k: np.repeat(x[None], speakers, 0) for k, x in means.items()}

    # ---- scores

    def _made_by(self, kind, split, index, signals):
        case, out = Case(self, split, index, signals, self.truth(split, index)), {}
        for function in self._functions(kind, [m for m in self.metrics if not speakers.of_one(m)],
                                        case):
            out |= function(case)
        functions = self._functions(kind, list(filter(speakers.of_one, self.metrics)), case)
        return out | (speakers.scored(self, functions, case) if functions else {})

    def aligned(self, signals: Conversation, truth: Conversation) -> bool:
        """Not if the variant decided its own timing, even at equal length."""
        return not signals.own_timing and abs(signals.seconds - truth.seconds) < 0.1

    def frames(self, split: str, index: int, signals: Conversation) -> dict[str, np.ndarray]:
        """For every speaker s: own_s, true_s (frames, M) while listening, partner_s, and
        `other<k>_s`: who is listened to. Of three speakers or more own_s and true_s are while any
        other speaks, and own_s_p, ..., `other<k>_s_p` while p does."""
        truth = self.truth(split, index)
        if MOTION not in signals.scored or not self.aligned(signals, truth):
            return {}
        strangers = [self.truth(split, i) for i in self.others(split, index, STRANGERS)]
        count = min(map(len, (*signals.motion_STM, *truth.motion_STM)))
        speaking = truth.speaking(count)
        out = {}
        for s in range(len(speaking)):
            listening = ~speaking[s] & np.delete(speaking, s, axis=0).any(0)
            if listening.sum() < LEAST_FRAMES:
                continue  # nobody speaks to one who is alone
            own = {"own": signals.motion_STM[s][:count], "true": truth.motion_STM[s][:count]}
            out |= {f"{name}_{s}": x[listening] for name, x in own.items()}
            for p in (p for p in range(len(speaking)) if p != s):
                heard = listening & speaking[p]
                if heard.sum() < LEAST_FRAMES:
                    continue
                motion = own | {"partner": truth.motion_STM[p][:count]} | {
                    f"other{k}": fit(x.motion_STM[p], count) for k, x in enumerate(strangers)}
                pair = f"{s}_{p}" if len(speaking) > 2 else f"{s}"
                out |= {f"{name}_{pair}": x[heard] for name, x in motion.items()}
        return out

    def targets(self, summary):
        """What a model that has learned must reach on a held-out split (ours by choice)."""
        targets = Targets(summary)

        def add(model, metric, text, sign, limit):
            found = targets.value(model, metric)
            if np.isfinite(found) and np.isfinite(limit):
                targets.add(f"{model} {metric}", text, found, sign, limit)

        for model in self.models:
            add(model, "F1_lips", ">= 0.8 of the codec's", ">=",
                0.8 * targets.value("codec", "F1_lips"))
            for metric in ("FD_listen_e", "FD_listen_h", "RPCC_e", "RPCC_h", "mel_L1"):
                add(model, metric, "< shuffled's", "<", targets.value("shuffled", metric))
            for metric in ("PFD_e", "PFD_h"):
                add(model, metric, "< 0.9 of that with shuffled partners", "<",
                    0.9 * targets.value(model, f"{metric}_shuffled"))
            for event in ("gap", "overlap", "pause", "turn"):
                metric = f"{event}_per_minute"
                add(model, metric, "within a third of the truth's", "near",
                    targets.value("truth", metric))
            chance = targets.value(model, "voice_chance@1")
            if chance <= MOST_CHANCE:
                add(model, "voice_R@1", ">= 5x chance", ">=", 5 * chance)
        return targets.rows
