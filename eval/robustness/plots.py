"""The plot of each check."""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from eval.robustness import portraits, prosody, speakers  # noqa: E402
from eval.robustness.pieces import check as pieces  # noqa: E402


def draw(results: dict, path) -> None:
    """A PNG of one check's results."""
    figure = _DRAWN[results["check"]](results)
    figure.savefig(path, format="png", dpi=110)
    plt.close(figure)


def _portraits(results: dict):
    """A column a kind of alteration, a row a number; a line a split, dotted the user's folders."""
    conditions, shown = results["conditions"], ("R@1", "place", "like clean")
    kinds = list(dict.fromkeys(a["group"] for a in conditions.values())) or [""]
    figure, axes = plt.subplots(len(shown), len(kinds), squeeze=False, layout="constrained",
                                figsize=(3.6 * len(kinds), 2.5 * len(shown)), sharey="row")
    for at, kind in enumerate(kinds):
        of = {name: a for name, a in conditions.items() if a["group"] == kind}
        unit = next((f", {a['unit']}" for a in of.values()), "")
        for row, column in enumerate(shown):
            axis = axes[row, at]
            axis.set_title(f"{column}: {kind}{unit}", fontsize=9, loc="left")
            for number, (split, table) in enumerate(results["tables"].items()):
                names, colour = (portraits.CLEAN, *of), f"C{number}"
                _band(axis, [0.0, *(a["level"] for a in of.values())],
                      [table[name][column] for name in names], colour, split)
                for name in results["portraits"][split]:
                    value = table[name][column]["value"]
                    axis.axhline(value, lw=0.9, ls=":", color=colour)
                    axis.text(0, value, name, fontsize=6, color=colour)
    axes[0, 0].legend(fontsize=7)
    return figure


def _band(axis, at, entries, colour: str, label: str) -> None:
    """A line of values with their intervals."""
    value, low, high = ([e.get(k, math.nan) for e in entries] for k in ("value", "low", "high"))
    axis.plot(at, value, marker=".", lw=1, color=colour, label=label)
    axis.fill_between(at, low, high, alpha=0.15, color=colour, lw=0)


def _speakers(results: dict):
    """What every speaker's own voice is like, and whether pictures of one sound alike."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for number, (group, of) in enumerate(results["speakers"].items()):
        own, same = (sorted(x[k] for x in of.values() if math.isfinite(x[k]))
                     for k in ("cosine", "same"))
        for axis, values in ((left, own), (right, same)):
            axis.step(values, np.linspace(0, 1, len(values)), color=f"C{number}", where="post",
                      label=f"{group}, {len(values)} speakers")
        table = next(iter(results["tables"].values()))[group]
        right.axvline(table["other"]["value"], lw=0.9, ls=":", color=f"C{number}",
                      label=f"{group}: two speakers, mean")
    left.set_title("cosine of the portrait's voice and the own", fontsize=9, loc="left")
    right.set_title("cosine of voices of pictures of one speaker", fontsize=9, loc="left")
    for axis in (left, right):
        axis.set_ylabel("share of speakers below", fontsize=8)
        axis.legend(fontsize=7)
    return figure


def _prosody(results: dict):
    """The spread of pitch that is made over that of the recording, a panel a variant."""
    variants = (prosody.CODEC, *prosody.VOICES)
    figure, axes = plt.subplots(len(results["utterances"]), len(variants), squeeze=False,
                                figsize=(3 * len(variants), 3 * len(results["utterances"])),
                                layout="constrained", sharex=True, sharey=True)
    for row, (split, found) in enumerate(results["utterances"].items()):
        for axis, variant in zip(axes[row], variants, strict=True):
            points = np.array([(u["recorded"], u["spread"]) for u in found[variant]], float)
            axis.plot(*points.T, ".", ms=4)
            most = np.nanmax([x for v in variants for u in found[v]
                              for x in (u["recorded"], u["spread"])])
            axis.plot([0, most], [0, most], lw=0.7, color="0.6")
            axis.set_title(f"{split}: {variant}", fontsize=9, loc="left")
        axes[row, 0].set_ylabel("spread of what is made, semitones", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("of the recording", fontsize=8)
    return figure


def _pieces(results: dict):
    """How much less or more a number is where all that was said is known, a panel a table."""
    tables = results["tables"]
    figure, axes = plt.subplots(1, len(tables), squeeze=False, layout="constrained",
                                figsize=(4.2 * len(tables), 3.2))
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        of = {c: e for c, e in table[pieces.DIFFERENCE].items() if e}
        for at, (column, entry) in enumerate(of.items()):
            base = abs(table[pieces.ALONE][column]["value"]) or 1.0
            value, low, high = (100 * entry.get(k, entry["value"]) / base
                                for k in ("value", "low", "high"))
            axis.plot([low, high], [at, at], color="C0", lw=1.5)
            axis.plot(value, at, ".", color="C0")
        axis.axvline(0, lw=0.7, color="0.6")
        axis.set_yticks(range(len(of)), [c.partition(": ")[2] for c in of], fontsize=8)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel(f"{pieces.DIFFERENCE}, % of {pieces.ALONE}", fontsize=8)
    return figure


_DRAWN = {portraits.NAME: _portraits, speakers.NAME: _speakers, prosody.NAME: _prosody,
          pieces.NAME: _pieces}
