"""The text part at a seam: how well it expects what was said, and what it says itself.

Who speaks is told by the units: one is silence that is heard outside the turns more often than
inside. Fitted codebooks have several (docs/data.md), so `filler` would not tell.

Suffixes: B seams, T units, S speakers, N text ids, R units there is room for, V units there are.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
from scipy.spatial import distance

from avjax.inference.keys import example_keys
from avjax.signal.runs import intervals
from avjax.systems.tavid.text import objective, plan
from avjax.systems.tavid.text.config import RATE
from avjax.systems.tavid.text.rows import count_filler
from data_pipelines.features.tavid.prompt import PIECE, SLACK
from eval.robustness.pieces.seams import Seam, Text, text

SECOND = int(RATE)
AT_ONCE = 4  # seams; one size, one compilation
LEAST = 5  # units, .1 s, that are speech where they follow each other without silence
COLUMNS = {
    "first second": "nats a unit of who speaks, in the first second of the first turn after a seam",
    "later": "the same after that", "others": "nats a unit of whoever does not speak",
    "plan": "nats of the time step to a new text id",
    "gap": "seconds of silence across the seam",
    "gap W1": "first Wasserstein distance of these to the recordings', seconds",
    "right first": "share of the seams after which the one whose turn it is speaks first",
    "edits": "edit distance of the first speaker's units, runs counted once, over the recording's",
    "likeness": "cosine of how often the first speaker says which unit, with the recording"}


class Said:
    """One text part."""

    fields = ("id", "tokens", "token_speaker", "turns", "units")

    def __init__(self, system, params, seed: int):
        self._system, self._params, self._seed = system, params, seed
        self.room = int(SLACK * PIECE * system.config.row_frames) // 2 * 2

    def look(self, rows) -> None:
        """Learns from a split's examples which units are silence; before `measured`."""
        outside_V, inside_V = np.zeros((2, self._system.config.num_units), np.int64)
        for index in range(len(rows.ids)):
            example = rows[index]
            speaks_TS = np.zeros(example["units"].shape, bool)
            for who, _, _, start, end, _ in example["turns"]:
                speaks_TS[start:end, who] = True
            for count_V, chosen in ((inside_V, speaks_TS), (outside_V, ~speaks_TS)):
                count_V += np.bincount(example["units"][chosen], minlength=len(count_V))
        self.silent_V = outside_V > inside_V

    def measured(self, example, found: Sequence[Seam], told: bool) -> list[dict[str, float]]:
        """Numbers of every seam, of a piece that is told the one before, or is not."""
        out = []
        for first in range(0, len(found), AT_ONCE):
            out += self._measured(example, found[first:first + AT_ONCE], told)
        return out

    def _measured(self, example, found: Sequence[Seam], told: bool) -> list[dict[str, float]]:
        c = self._system.config
        filler = c.filler if c.filler >= 0 else count_filler(example["units"], example["turns"])
        texts = [text(example, seam, told, filler) for seam in found]
        given = [self._row(one) for one in texts + texts[-1:] * (AT_ONCE - len(texts))]
        batch = {name: np.stack([row[name] for row in given]) for name in given[0]}
        names = [f"{example['id']}|{seam.seam}" for seam in found]
        names += names[-1:] * (AT_ONCE - len(names))
        units_BTS, plan_BN, made_BRS, length_B = jax.device_get(self._run(
            self._params, batch, example_keys(self._seed, names)))
        return [self._expected(seam, one, units_BTS[b], plan_BN[b])
                | self._spoken(example["units"], seam, made_BRS[b, :length_B[b]])
                for b, (seam, one) in enumerate(zip(found, texts, strict=True))]

    @functools.cached_property
    def _run(self):
        return jax.jit(self._both)

    def _both(self, params, batch, keys):
        """Nats of every unit and of every text id's step; what is said, and how long that is."""
        c, net = self._system.config, self._system.net
        units_BIJ, _ = objective.targets(batch, c)
        text_BNE, logits = objective.read(net, params, batch, objective.before(units_BIJ, c),
                                          units_BIJ, batch["tokens_length"], {})
        nats_BTS = objective.entropy(logits, units_BIJ).reshape(len(units_BIJ), -1, c.num_streams)
        plan_BN = jnp.zeros(batch["tokens"].shape)
        if c.alignment == "plan":
            planned = net.apply({"params": params}, text_BNE, method="plan_logits")
            plan_BN = plan.entropy(planned, batch["times"])
        room = jnp.zeros((len(units_BIJ), self.room), jnp.int32)
        made = self._system.go_on(params, batch | {"room": room}, keys)
        return nats_BTS, plan_BN, made["units"], made["units_length"]

    def _row(self, one: Text) -> dict[str, np.ndarray]:
        c = self._system.config
        more, frames = c.row_tokens - len(one.tokens), c.row_frames - len(one.units)

        def padded(x, value=0):
            return np.pad(x, (0, more), constant_values=value)

        units_TS = np.pad(one.units, ((0, frames), (0, 0)))
        said_S = units_TS[:int(PIECE * c.row_frames)]
        return {"tokens": padded(one.tokens), "token_speaker": padded(one.token_speaker, -1),
                "tokens_length": np.int32(len(one.tokens)), "times": padded(one.times),
                "units": units_TS, "units_length": np.int32(len(one.units)),
                "weight": np.ones(units_TS.shape, np.float32),
                "said": said_S, "said_length": np.int32(one.length),
                "said_tokens": np.int32(one.said), "said_times": padded(one.times)}

    @staticmethod
    def _expected(seam: Seam, one: Text, nats_TS, plan_N) -> dict[str, float]:
        nats_TS = nats_TS[one.length:len(one.units)]
        speaks_TS = np.zeros(nats_TS.shape, bool)
        known_TS = seam.speaking()
        speaks_TS[:, :known_TS.shape[1]] = known_TS[:len(speaks_TS)]
        own_T = np.flatnonzero(speaks_TS[:, seam.speaker])[:SECOND]
        rest_TS = speaks_TS.copy()
        rest_TS[own_T, seam.speaker] = False
        real = slice(one.said, len(one.tokens))
        return {"first second": _mean(nats_TS[own_T, seam.speaker]),
                "later": _mean(nats_TS[rest_TS]), "others": _mean(nats_TS[~speaks_TS]),
                "plan": _mean(plan_N[real][one.token_speaker[real] >= 0])}

    def _spoken(self, units_TS, seam: Seam, made_RS) -> dict[str, float]:
        true_TS, silent_V = units_TS[seam.seam:seam.end], self.silent_V
        before = spoken(units_TS[seam.begin:seam.seam], silent_V)
        quiet = (seam.seam - seam.begin - 1 - np.flatnonzero(before.any(1)).max(initial=-1)) / RATE
        out = {}
        for name, x in (("gap", made_RS), ("true gap", true_TS)):
            starts_S = [np.flatnonzero(says_T).min(initial=len(x))
                        for says_T in spoken(x, silent_V).T]
            first = min(starts_S)
            out[name] = quiet + first / RATE if first < len(x) else np.nan
            if name == "gap":
                out["right first"] = float(first < len(x)
                                           and starts_S.index(first) == seam.speaker)
        said = [x[~silent_V[x]] for x in (made_RS[:, seam.speaker], true_TS[:, seam.speaker])]
        own, true = map(_runs, said)
        edits = jiwer.wer(true, own) if true else np.nan
        counts = [np.bincount(x, minlength=len(silent_V)) for x in said]
        alike = 1 - distance.cosine(*counts) if all(c.any() for c in counts) else np.nan
        return out | {"edits": edits, "likeness": alike}


def spoken(units_TS: np.ndarray, silent_V: np.ndarray) -> np.ndarray:
    """(T, S) bool: at least LEAST units that are no silence follow each other."""
    out_TS = np.zeros(units_TS.shape, bool)
    for s in range(units_TS.shape[1]):
        for start, end in intervals(~silent_V[units_TS[:, s]]):
            out_TS[start:end, s] = end - start >= LEAST
    return out_TS


def _runs(x: np.ndarray) -> str:
    """Units as words, each run once."""
    return " ".join(map(str, x[np.flatnonzero(np.diff(x, prepend=-1))])) if len(x) else ""


def _mean(x) -> float:
    return float(np.mean(x)) if np.size(x) else np.nan
