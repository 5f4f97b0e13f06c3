"""Do units carry how something is said, whoever's voice says it? Sound is made of every held-out
channel's own units with its own voice, with the flattest speaker's and with the liveliest one's;
pitch and loudness of what is made are compared with the recording that the units are of.

Where units carry prosody, what is made keeps the recording's contour and spread of pitch under any
voice, and a flat voice speaks lively units lively. Where the voice decides, the spread goes with
the voice and the contour is lost. `codec` is the recording's own mel made into sound, the ceiling.
How flat a speaker is: the mean spread of pitch over the recordings that are scored. Utterances are
halved at the median of their recordings' spread. All ours by choice; the paper gives no protocol.
Suffixes: S speakers.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from avjax.errors import UserError
from avjax.inference.generator import Generator, generate_split
from avjax.inference.local import local_mesh
from data_pipelines.features.common.clips import to_float
from data_pipelines.features.tavid.conversations import speaker_prefixes
from eval import pooling
from eval.robustness import contours
from eval.robustness.contours import Contour
from eval.robustness.kept import Kept
from eval.robustness.subject import Subject

NAME = "prosody"
CODEC, OWN, FLAT, LIVELY = "codec", "own voice", "flat voice", "lively voice"
VOICES = (OWN, FLAT, LIVELY)
RECIPE = {"implementation": "avjax eval.robustness.prosody 1", **contours.RECIPE,
          "voices": "speaker embeddings, the mean over a speaker's recordings in the split",
          "flat, lively": "least and greatest mean spread of pitch"}
COLUMNS = {"pitch": "correlation with the recording's pitch, where both are voiced",
           "loudness": "correlation with the recording's loudness, where both are no pause",
           "spread": "of pitch, semitones (half of the 16th to the 84th percentile)",
           "flat units": "the same of the half of the recordings that have the lesser spread",
           "lively units": "of the other half",
           "follows units": "correlation over utterances of that spread with the recording's",
           "register": "distance of the median pitch from the voice's own, semitones",
           "from units": "distance of the median pitch from the recording's, semitones"}


def run(subject: Subject, splits: Sequence[str], kept: Kept) -> dict:
    """{"tables": {split: {variant: {column: entry}}}, "voices", "utterances"}; rows are kept.
    UserError: see `Subject`; fewer than two speakers whose pitch can be told."""
    system, params = subject.part("acoustic")
    if not system.config.voice_dim:
        raise UserError("a model without voices", where="config.system.voice_dim", expected="> 0",
                        found="0")
    subject.need("speakers", "voices", "units", "mel")
    sampler = Generator(system, seed=subject.seed, batch_size=subject.batch_size,
                        mesh=local_mesh())
    tables, voices, utterances = {}, {}, {}
    for split in splits:
        one = _Split(subject, split, kept)
        with kept.bar((2 + len(VOICES)) * len(one.indices), f"prosody {split}") as bar:
            recorded = one.heard(bar)
            chosen = one.chosen(recorded)
            made = {CODEC: one.measured(CODEC, "", one.codec, bar)}
            for variant in VOICES:
                name = chosen.get(variant, "")
                made[variant] = one.measured(
                    variant, name, functools.partial(one.spoken, sampler, params, name), bar)
        tables[split], utterances[split] = _table(one, recorded, made, chosen)
        voices[split] = {v: {"speaker": n, "spread": one.flatness(recorded)[n]}
                         for v, n in chosen.items()}
    return {"tables": tables, "voices": voices, "utterances": utterances}


class _Split:
    """One split's dialogues: who speaks in them, their recordings, and what is made of them."""

    def __init__(self, subject: Subject, split: str, kept: Kept):
        self.subject, self.split, self.kept = subject, split, kept
        self.rows = subject.source(split, ("id", "speakers", "voices", "mel"))
        self.ids = list(self.rows.ids)
        self.indices = list(range(len(self.ids)))[:subject.max_examples or None]
        self.people = {p.name: p for p in subject.people(split, seen=False)}
        places = sorted((*at, p.name) for p in self.people.values() for at in p.at)
        self.names = {i: [name for at, _, name in places if at == i] for i in self.indices}

    def heard(self, bar) -> dict[int, list[Contour]]:
        """Contours of every channel's recording: of its clip, or where that is not at hand of its
        mel."""
        of = {}
        for index in self.indices:
            row, arrays = self.kept.of(lambda index=index: _row(self._recorded(index)), NAME,
                                       self.split, self.ids[index], "recorded")
            of[index] = _contours(row, arrays)
            bar.update()
        return of

    def flatness(self, recorded) -> dict[str, float]:
        """{speaker: mean spread of pitch over the recordings} of all whose pitch can be told."""
        found: dict[str, list[float]] = {}
        for index, of in recorded.items():
            for name, contour in zip(self.names[index], of, strict=True):
                if np.isfinite(contour.spread):
                    found.setdefault(name, []).append(contour.spread)
        return {name: float(np.mean(x)) for name, x in found.items()}

    def chosen(self, recorded) -> dict[str, str]:
        """{FLAT, LIVELY: speaker}."""
        found = self.flatness(recorded)
        if len(found) < 2:
            raise UserError("too few voices to tell a flat one", where=f"split {self.split}",
                            expected="2 speakers whose pitch can be told", found=str(len(found)),
                            hint="more dialogues: --config.evaluate.max_examples=0")
        return {FLAT: min(found, key=found.get), LIVELY: max(found, key=found.get)}

    def measured(self, variant: str, voice: str, make, bar) -> dict[int, list[Contour]]:
        """Contours of every channel of a variant. make: indices -> (index, waveforms) of each."""
        names = NAME, self.split
        todo = [i for i in self.indices
                if self.kept.get(*names, self.ids[i], variant, voice) is None]
        bar.update(len(self.indices) - len(todo))
        for index, waves in make(todo) if todo else ():
            rate = self.subject.decoder.sample_rate
            self.kept.put(*_row([contours.of(x, rate) for x in waves]), *names, self.ids[index],
                          variant, voice)
            bar.update()
        return {i: _contours(*self.kept.get(*names, self.ids[i], variant, voice))
                for i in self.indices}

    def codec(self, indices) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The recordings' mel as sound."""
        for index in indices:
            yield index, self._sound({"mel": self.rows[index]["mel"]})

    def spoken(self, sampler: Generator, params, voice: str, indices
               ) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The units in the voice of a speaker, of each channel's own where that is ""."""
        def given(example):
            of = [voice or name for name in self.names[self.ids.index(example["id"])]]
            return example | {"voices": np.stack([self.people[name].voice for name in of])}

        for index, streams in generate_split(sampler, params, self.subject.dataset, self.split,
                                             indices, given=given):
            yield index, self._sound(streams)

    def _sound(self, streams: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        decoder = self.subject.decoder
        return [np.asarray(decoder.waveform(x), np.float32) for x in decoder.speakers(streams)]

    def _recorded(self, index: int) -> list[Contour]:
        clips, at = self.subject.clips, self._clips.get(self.ids[index])
        if at is None:
            (_, waves), = self.codec([index])
            return [contours.of(x, self.subject.decoder.sample_rate) for x in waves]
        fields = tuple(f"{p}audio" for p in speaker_prefixes(clips))
        row = clips.source(at[0], fields)[at[1]]
        return [contours.of(to_float(row[f]), clips.features[f].rate) for f in fields]

    @functools.cached_property
    def _clips(self) -> dict[str, tuple[str, int]]:
        clips = self.subject.clips
        return {} if clips is None else {name: (split, i) for split, ids in clips.ids.items()
                                         for i, name in enumerate(ids)}


def _row(found: Sequence[Contour]) -> tuple[dict, dict[str, np.ndarray]]:
    """As it is kept."""
    return {"speakers": len(found)}, {f"{name}_{s}": getattr(c, f"{name}_T")
                                      for s, c in enumerate(found) for name in ("pitch", "energy")}


def _contours(row: dict, arrays: Mapping[str, np.ndarray]) -> list[Contour]:
    return [Contour(arrays[f"pitch_{s}"], arrays[f"energy_{s}"]) for s in range(row["speakers"])]


def _table(one: _Split, recorded, made: Mapping[str, dict], chosen: Mapping[str, str]
           ) -> tuple[dict, dict]:
    """({variant: {column: entry}}, {variant: [numbers of an utterance]})."""
    registers: dict[str, list[float]] = {}
    channels = [(i, s, c) for i, of in recorded.items() for s, c in enumerate(of)]
    for index, s, contour in channels:
        registers.setdefault(one.names[index][s], []).append(contour.register)
    register = {name: _mean(x) for name, x in registers.items()}
    out, utterances = {}, {}
    for variant, contours_of in {"recorded": recorded, **made}.items():
        found = []
        for index, s, true in channels:
            own = contours_of[index][s]
            voice = register[chosen.get(variant, one.names[index][s])]
            found.append({
                "id": one.ids[index], "speaker": one.names[index][s],
                "pitch": contours.correlation(own.pitch_T, true.pitch_T),
                "loudness": contours.correlation(own.energy_T, true.energy_T),
                "spread": own.spread, "recorded": true.spread,
                "register": abs(own.register - voice), "from units": abs(own.register
                                                                         - true.register)})
        utterances[variant] = found
        out[variant] = _columns(found)
    return out, utterances


def _columns(found: Sequence[dict]) -> dict[str, dict | None]:
    numbers = {name: np.array([x[name] for x in found], np.float64)
               for name in ("pitch", "loudness", "spread", "register", "from units", "recorded")}
    spread, recorded = numbers["spread"], numbers["recorded"]
    both = np.isfinite(spread) & np.isfinite(recorded)
    low = recorded <= (np.median(recorded[both]) if both.any() else np.nan)
    numbers |= {"flat units": spread[both & low], "lively units": spread[both & ~low]}
    pair = np.stack([spread, recorded], 1)[both]
    follows = (pooling.interval(pair, _correlated) if len(pair) > 3 and (pair.std(0) > 1e-6).all()
               else None)
    return {column: follows if column == "follows units" else _entry(numbers[column])
            for column in COLUMNS}


def _entry(values: np.ndarray) -> dict | None:
    values = values[np.isfinite(values)]
    return pooling.interval(values, pooling.mean) if len(values) else None


def _correlated(pair_nC: np.ndarray) -> np.ndarray:
    """Pearson's correlation of two columns (..., n, 2); NaN where one is constant."""
    off = pair_nC - pair_nC.mean(-2, keepdims=True)
    power = np.sqrt(np.square(off).sum(-2).prod(-1))
    return np.divide(off.prod(-1).sum(-1), power, out=np.full(power.shape, np.nan),
                     where=power > 1e-12)


def _mean(values: Sequence[float]) -> float:
    found = [x for x in values if np.isfinite(x)]
    return float(np.mean(found)) if found else np.nan
