"""Examples of the report: players side by side, and plots of what was made beside the truth."""

import html

from eval.registry import AUDIO, MOTION, TOKENS
from eval.report import energy, media, plots
from eval.report.drawn import Drawn

_NAMES = {"model": "generated"}  # the only variant of a system with one task
TOGETHER = "Play side by side"


def section(sample: dict, drawn: Drawn) -> str:
    """Of one example, as HTML.

    Args:
      sample: from `eval.run.runner.samples`: {"split", "id", "text", "benchmark", "identity",
        "models": {variant: Signals}, "truth": Signals}, and "place" where it was picked by a
        metric.
    """
    truth, benchmark = sample["truth"], sample["benchmark"]
    models = {_NAMES.get(variant, variant): signals for variant, signals in
              sample["models"].items()}
    players = [media.player(benchmark, who, signals, sample["identity"])
               for who, signals in (models | {benchmark.truth_title: truth}).items()]
    together = (f"<button type=button class=together aria-pressed=false>{TOGETHER}</button>"
                if sum(map(bool, players)) > 1 else "")
    split, name = html.escape(sample["split"], quote=True), html.escape(sample["id"])
    place = html.escape(sample.get("place", ""))
    words = html.escape(f"{sample['text']} {sample['id']} {sample.get('place', '')}", quote=True)
    return (f"<section class=example data-item data-split='{split}' data-words='{words}'>"
            f"<h3>{place or name}</h3><p class=said>“{html.escape(sample['text'])}”</p>"
            f"<p class=note>{split} · {name}</p>"
            f"{_heard(models, truth) if benchmark.has_words else ''}{together}"
            f"<div class=pair>{''.join(players)}</div>"
            f"<div class=plots>{_plots(sample, models, truth, drawn)}</div></section>")


def _heard(models: dict, truth) -> str:
    heard = "".join(f"{html.escape(who)} “{html.escape(signals.transcript)}”, "
                    for who, signals in models.items() if AUDIO in signals.scored)
    return (f"<p class=note>heard by the recogniser: {heard}ground truth "
            f"“{html.escape(truth.transcript)}”</p>")


def _plots(sample: dict, models: dict, truth, drawn: Drawn) -> str:
    benchmark, split, figures = sample["benchmark"], sample["split"], []

    def add(kind: str, figure, caption: str, alt: str) -> None:
        image = drawn.picture(f"{split}.{sample['id']}.{kind}", figure, alt)
        figures.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{image}</figure>")

    for who, signals in models.items():
        if TOKENS in signals.scored:
            add(f"tokens.{who}", plots.token_pair(signals.tokens_TC, truth.tokens_TC),
                f"{who}: tokens", f"tokens, {who} above, ground truth below")
        if AUDIO in signals.scored & truth.scored:
            pair = plots.spectrogram_pair(signals.mel_TM, truth.mel_TM, signals.mel_rate)
            add(f"spectrograms.{who}", pair, f"{who}: spectrograms",
                f"spectrograms, {who} above, ground truth below")
    moving = {who: signals for who, signals in models.items()
              if MOTION in signals.scored & truth.scored}
    pairs, threshold = plots.curve_pairs(benchmark, moving, truth) if moving else ([], None)
    if pairs:
        add("motion", plots.curves(pairs, benchmark.motion_fps, threshold), "motion",
            f"motion curves over time: {', '.join(name for name, *_ in pairs)}")
    if moving and benchmark.has_codes:
        index = benchmark.source(split).ids.index(sample["id"])
        rows = energy.curves(benchmark, split, index, moving, truth, benchmark.truth_title)
        said = ". ".join(f"{row.title}: {row.said()}" for row in rows)
        shaded = " Shaded: who is drawn speaks." * any(r.speaking is not None for r in rows)
        add("energy", plots.energies(rows, benchmark.motion_fps, benchmark.truth_title),
            f"Expression energy, the truth's mean is 1. Means: {said}.{shaded}",
            f"expression energy over time. Means: {said}")
    return "".join(figures)
