"""How alike the voices of one speaker and of different speakers are, by each kind of voices.

Suffixes: U pieces, S numbers of a voice.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from avjax.encoders import voices
from avjax.errors import UserError
from data_pipelines.features.common.clips import to_float
from data_pipelines.store import dataset as store
from data_pipelines.store.columns import PREFIXES

RELATIONS = ("one recording", "one speaker", "two speakers")


def compare(datasets: Sequence[store.Dataset], split: str | None, kinds: Iterable[str],
            seconds: float, most: int) -> dict:
    """The report, as JSON values: for each kind and relation the pairs and their cosines' mean,
    standard deviation, 5 % and 95 % quantiles; and `told apart`, how often a pair of one speaker is
    the closer one (0.5 is chance): of recordings apart where there are such, else of one.

    Args:
      datasets: clips of one speaker or several, a channel each; speakers of one name are one.
      split: None for all.
      seconds: recordings are cut into equal pieces of at least so many.
      most: pieces, the first that every kind hears enough of.

    Raises UserError: no sound, no such split, fewer than two pieces, weights that are not there.
    """
    for clips in datasets:
        if "audio" not in clips.features or split not in {None, *clips.splits}:
            raise UserError("no voices to compare in", where=f"{clips.dir}, split {split}",
                            expected=f"clips with audio, of {', '.join(clips.splits)}",
                            found=", ".join(clips.features))
    makers = {kind: voices.maker(kind) for kind in kinds}
    found, silent = [], 0
    pieces = itertools.chain(*(_pieces(clips, split, seconds) for clips in datasets))
    for speaker, recording, audio_N, rate in pieces:
        raw = {kind: voices.heard(m, audio_N, rate) for kind, m in makers.items()}
        if not all(np.isfinite(x).all() for x in raw.values()):
            silent += 1
            continue
        found.append((speaker, recording, raw))
        if len(found) == most:
            break
    if len(found) < 2:
        raise UserError("no two pieces to compare", where=", ".join(str(x.dir) for x in datasets),
                        expected=f"{voices.SHORTEST:g} s of speech in two", found=str(len(found)),
                        hint="more clips, or longer pieces: --seconds")
    speakers_U, recordings_U = (np.array(x) for x in list(zip(*found, strict=True))[:2])
    pairs = dict(zip(RELATIONS, _pairs(speakers_U, recordings_U), strict=True))
    by = {}
    for kind, maker in makers.items():
        raw_US = np.stack([raw[kind] for _, _, raw in found])
        x_US = maker.fit(raw_US).scale(raw_US)
        x_US = x_US / np.maximum(np.linalg.norm(x_US, axis=1, keepdims=True), 1e-9)
        cosine_UU = x_US @ x_US.T
        by[kind] = _numbers({name: cosine_UU[at] for name, at in pairs.items()})
    return {"pieces": len(found), "too little speech": silent, "seconds": seconds,
            "speakers": len(set(speakers_U)), "recordings": len(set(recordings_U)), "by": by}


def _pieces(clips, split: str | None,
            seconds: float) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """(speaker, recording, float samples, their rate); a conversation that has a clip from each
    side once."""
    prefixes = [p for p in PREFIXES if f"{p}audio" in clips.features]
    rate = clips.features["audio"].rate
    wanted = ("id", "side", *(p + c for p in prefixes for c in ("audio", "speaker")))
    wanted = tuple(w for w in wanted if w in clips.features)
    for name in [split] if split else clips.splits:
        for clip, p in itertools.product(clips.source(name, wanted), prefixes):
            if clip.get("side", "0") != "0":
                continue
            audio_N = to_float(clip[f"{p}audio"])
            count = max(1, int(len(audio_N) / (seconds * rate)))
            for piece_N in np.array_split(audio_N, count):
                yield clip.get(f"{p}speaker", ""), f"{clips.dir} {clip['id']} {p}", piece_N, rate


def _pairs(speakers_U, recordings_U) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the pairs of each of RELATIONS."""
    first, second = np.triu_indices(len(speakers_U), 1)
    recording = recordings_U[first] == recordings_U[second]
    speaker = speakers_U[first] == speakers_U[second]
    return [(first[which], second[which]) for which in (recording, speaker & ~recording, ~speaker)]


def _numbers(cosines: Mapping[str, np.ndarray]) -> dict:
    out = {}
    for name, x in cosines.items():
        out[name] = {"pairs": len(x)}
        if len(x):
            low, high = np.quantile(x, (0.05, 0.95))
            out[name] |= {"mean": float(x.mean()), "std": float(x.std()), "low": float(low),
                          "high": float(high)}
    one, apart, two = cosines.values()
    same = apart if len(apart) else one
    if len(same) and len(two):
        better = stats.mannwhitneyu(same, two).statistic
        out["told apart"] = float(better / (len(same) * len(two)))
    return out


def text(report: Mapping) -> str:
    """The report of `compare` as a table."""
    wide = max(map(len, report["by"])) + 2
    lines = [f"{report['pieces']} pieces of {report['seconds']:g} s and more, of "
             f"{report['recordings']} recordings of {report['speakers']} speakers; "
             f"{report['too little speech']} others have too little speech",
             f"{'voice':<{wide}}{'pairs of':<15}{'pairs':>7}{'cosine':>8}{'std':>7}"
             f"{'5 %':>8}{'95 %':>8}{'told apart':>12}"]
    for kind, numbers in report["by"].items():
        apart = numbers.get("told apart")
        for name in RELATIONS:
            n = numbers[name]
            line = f"{kind:<{wide}}{name:<15}{n['pairs']:>7}"
            if n["pairs"]:
                line += f"{n['mean']:>8.3f}{n['std']:>7.3f}{n['low']:>8.3f}{n['high']:>8.3f}"
            if name == RELATIONS[-1] and apart is not None:
                line += f"{apart:>12.3f}"
            lines.append(line)
    return "\n".join(lines)
