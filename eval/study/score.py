"""What a study's ratings say: means and preferences with intervals, agreement, power."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from avjax.errors import UserError
from eval.study import statistics
from eval.study.ratings import Rater, Rating
from eval.sweep.statistics import holm, paired

TIE = "="


def score(key: Mapping, raters: Sequence[Rater], *, allowed: int = 0, difference: float = 0.2,
          power: float = 0.8) -> dict:
    """The report, as JSON values.

    Args:
      allowed: attention checks that a rater may miss and still counts.
      difference: that the numbers of raters are for: of mean ratings, or of how often one and the
        other are preferred.
      power: the chance of finding it.

    Returns:
      {"study", "kind", "raters": numbers of those who count, "excluded", "incomplete": lines,
      "difference", "power", "questions": {question: what `_mos` or `_pairwise` returns}}

    Raises UserError: nobody passes the attention checks.
    """
    counted = [r for r in raters if r.missed <= allowed]
    excluded = [f"rater {r.number}: {r.missed} attention checks missed" for r in raters
                if r.missed > allowed]
    if not counted:
        raise UserError("no rater passed the attention checks", found="; ".join(excluded),
                        hint="--allow_missed=1 counts those who missed one")
    incomplete = [f"rater {r.number}: {r.lacking} of {r.trials} trials without an answer"
                  for r in counted if r.lacking]
    found = _mos if key["kind"] == "mos" else _pairwise
    questions = {}
    for question in key["questions"]:
        ratings = [x for r in counted for x in r.ratings if x.question == question]
        if not ratings:
            raise UserError("no ratings of a question", where=question,
                            hint="all trials of all raters that count were skipped")
        questions[question] = found(key, ratings, difference, power)
    return {"study": key["study"], "kind": key["kind"], "raters": [r.number for r in counted],
            "excluded": excluded, "incomplete": incomplete, "difference": difference,
            "power": power, "questions": questions}


def _by_rater(values: Mapping[tuple, list[float]], of) -> dict[int, float]:
    """{rater: mean} of {(rater, of): numbers}."""
    return {rater: float(np.mean(x)) for (rater, what), x in values.items() if what == of}


def _mos(key, ratings: Sequence[Rating], difference: float, power: float) -> dict:
    """{"conditions": {name: {"n", "raters", "mean", "half", "half_raters"}}, "differences": [{"a",
    "b", "mean", "low", "high", "p", "p_holm", "n", "needed"}], "agreement"}: `half` takes every
    rating as independent, as papers print it; `half_raters` is over the raters' means."""
    own = defaultdict(list)
    for x in ratings:
        own[x.rater, x.conditions[0]].append(float(x.answer))
    conditions, means = {}, {}
    for name in key["conditions"]:
        values = [float(x.answer) for x in ratings if x.conditions == (name,)]
        means[name] = _by_rater(own, name)
        conditions[name] = {
            "n": len(values), "raters": len(means[name]),
            "mean": float(np.mean(values)) if values else None,
            "half": statistics.half_width(values),
            "half_raters": statistics.half_width(list(means[name].values()))}
    differences = []
    for a, b in itertools.combinations(key["conditions"], 2):
        both = [means[a][r] - means[b][r] for r in means[a] if r in means[b]]
        if both:
            differences.append({"a": a, "b": b, **paired(both), "needed":
                                statistics.raters_needed(difference, both, power)})
    for row, p in zip(differences, holm([d["p"] for d in differences]), strict=True):
        row["p_holm"] = p
    return {"conditions": conditions, "differences": differences,
            "agreement": _agreement(ratings)}


def _agreement(ratings: Sequence[Rating]) -> dict:
    """{"alpha", "icc_1", "icc_k", "stimuli", "raters"}; the last four of the stimuli that everybody
    rated."""
    units, people = defaultdict(dict), sorted({x.rater for x in ratings})
    for x in ratings:
        units[x.conditions, x.item][x.rater] = float(x.answer)
    complete = [[u[r] for r in people] for u in units.values() if len(u) == len(people)]
    found = statistics.icc(complete) if complete else None
    return {"alpha": statistics.krippendorff({k: list(u.values()) for k, u in units.items()}),
            "icc_1": found and found[0], "icc_k": found and found[1],
            "stimuli": len(complete), "raters": len(people)}


def _pairwise(key, ratings: Sequence[Rating], difference: float, power: float) -> dict:
    """{"pairs": [{"a", "b", "n", "ties", "rate", "low", "high", "p", "p_holm", "raters",
    "mean_raters", "half_raters", "needed"}], "agreement": {"alpha"}, "left": of all that were no
    ties, how often the left one was preferred}. `rate` is how often a was preferred to b, ties left
    out; `mean_raters` the mean of the raters' own rates, a tie being half."""
    pairs, units = [], defaultdict(list)
    for x in ratings:
        units[frozenset(x.conditions), x.item].append(_preferred(x))
    for a, b in key["pairs"]:
        of = [x for x in ratings if set(x.conditions) == {a, b}]
        chosen = [_preferred(x) for x in of]
        own = defaultdict(list)
        for x, name in zip(of, chosen, strict=True):
            own[x.rater].append({a: 1.0, b: 0.0, TIE: 0.5}[name])
        rates = [float(np.mean(x)) for x in own.values()]
        wins, losses = chosen.count(a), chosen.count(b)
        pairs.append({"a": a, "b": b, "n": len(of), "ties": len(of) - wins - losses,
                      **statistics.sign_test(wins, losses), "raters": len(rates),
                      "mean_raters": float(np.mean(rates)) if rates else None,
                      "half_raters": statistics.half_width(rates),
                      # a's rate less b's is 2 rate - 1
                      "needed": statistics.raters_needed(difference / 2, rates, power)})
    for row, p in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        row["p_holm"] = p
    left = [x.answer == "A" for x in ratings if x.answer != TIE]
    return {"pairs": pairs, "agreement": {"alpha": statistics.krippendorff(units, nominal=True)},
            "left": statistics.sign_test(sum(left), len(left) - sum(left))}


def _preferred(rating: Rating) -> str:
    """A condition, or TIE."""
    return TIE if rating.answer == TIE else rating.conditions["AB".index(rating.answer)]
