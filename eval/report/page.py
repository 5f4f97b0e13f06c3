"""report.html: one self-contained page with the table, the targets, training curves and some
examples to see and hear beside the ground truth."""

import datetime
import html
import importlib.resources
import json
import pathlib
import string

from avjax.storage import atomic
from eval.registry import AUDIO, MOTION, TOKENS
from eval.report import history, media, plots
from eval.report.tables import cell, count, number, shown

REPORT_FILE = "report.html"
_TITLES = {"codec": "codec alone", "shuffled": "another one", "mean": "mean frame"}
_PUPPETS = ("<p class=note>Puppets are drawn faces with synthetic voices whose every parameter is "
            "known. These numbers show that the model learned and that the plumbing works; they "
            "say nothing about realism.</p>")
_EXAMPLES = ("<h2>Examples</h2><p class=note>Both sides go through the same codecs. None of these "
             "was seen in training.</p>")


def shows(out_dir, results: dict) -> bool:
    """Whether there is a report of these results' parameters."""
    path = pathlib.Path(out_dir) / REPORT_FILE
    return path.is_file() and f"parameters {results['params']}" in path.read_text()


def write(out_dir, results: dict, samples: list[dict], workdir=None) -> pathlib.Path:
    """Writes report.html, whole or not at all.

    Args:
      out_dir: folder of the report.
      results: what `eval.run.runner.Run.results` returned.
      samples: from `eval.run.runner.samples`: examples with the Signals of variants and truth.
      workdir: a training run's folder; its metrics.jsonl gives the curves.
    """
    about = [f"benchmark {results['benchmark']}", f"parameters {results['params']}"]
    if results.get("step") is not None:
        about.append(f"step {results['step']}")
    about.append(datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
    parts = [_PUPPETS] if "puppets" in results["benchmark"] else []
    parts += [_split_section(split, results) for split in results["summary"]]
    curves = history.read_history(pathlib.Path(workdir) / "metrics.jsonl") if workdir else {}
    if curves:
        drawn = plots.png(plots.training_curves(curves))
        parts.append(f"<h2>Training</h2>{media.picture(drawn, 'training curves')}")
    if samples:
        parts += [_EXAMPLES, *map(_example, samples)]
    page = string.Template(resource("page.html")).substitute(
        name=html.escape(results.get("name") or results["benchmark"]),
        about=html.escape(" · ".join(about)), style=resource("style.css"), body="\n".join(parts),
        recipes=html.escape(json.dumps(results["recipes"], indent=1)))
    path = pathlib.Path(out_dir) / REPORT_FILE
    atomic.write(path, page)
    return path


def resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _split_section(split: str, results: dict) -> str:
    variants, models = results["summary"][split], results["models"]
    titles = _TITLES | {"truth": "ground truth" if "codec" in variants
                        else "ground truth via codec"}
    head = "".join(f"<th>{titles.get(v, v)}</th>" for v in variants)
    rows = []
    lacking = results.get("not_measured", {})
    for metric in shown(variants, lacking):
        cells = "".join(f"<td{' class=model' if v in models else ''}>"
                        f"{_cell(entries.get(metric.name))}</td>"
                        for v, entries in variants.items())
        if metric.name in lacking:
            cells = (f"<td colspan={len(variants)}>not measured: "
                     f"{html.escape(lacking[metric.name])}</td>")
        meaning = html.escape(metric.explanation)
        rows.append(f"<tr><td><b>{metric.name}</b><small>{meaning}</small></td>{cells}</tr>")
    targets = "".join(
        f"<li class={'met' if t['met'] else 'missed'}>{html.escape(t['metric'])} "
        f"{html.escape(t['target'])} "
        f"<span class=soft>({number(t['value'])} against {number(t['limit'])})</span></li>"
        for t in results["targets"].get(split, ()))
    return (f"<h2>{html.escape(split)} <span class=soft>{count(results, split)} "
            "examples</span></h2>"
            f"<div class=scroll><table><tr><th>metric</th>{head}</tr>{''.join(rows)}</table></div>"
            + (f"<ul class=targets>{targets}</ul>" if targets else "")
            + "<p class=note>Small print: 95 % bootstrap interval over examples.</p>")


def _cell(entry) -> str:
    value, _, interval = cell(entry).partition(" [")
    if not interval:
        return value
    return f"{value}<small>{interval.rstrip(']').replace(', ', ' – ')}</small>"


def _example(sample: dict) -> str:
    truth, benchmark = sample["truth"], sample["benchmark"]
    names = {"model": "generated"}  # the only variant of a system with one task
    models = {names.get(variant, variant): signals for variant, signals in sample["models"].items()}
    players = "".join(media.player(benchmark, who, signals, sample["identity"])
                      for who, signals in (models | {"ground truth via codec": truth}).items())
    return (f"<section class=example><p class=said>“{html.escape(sample['text'])}”</p><p "
            f"class=note>{html.escape(sample['split'])} · {html.escape(sample['id'])}</p>"
            f"{_heard(models, truth) if benchmark.has_words else ''}<div class=pair>{players}</div>"
            f"<div class=plots>{_plots(models, truth, benchmark)}</div></section>")


def _heard(models: dict, truth) -> str:
    heard = "".join(f"{html.escape(who)} “{html.escape(signals.transcript)}”, "
                    for who, signals in models.items() if AUDIO in signals.scored)
    return (f"<p class=note>heard by the recogniser: {heard}ground truth "
            f"“{html.escape(truth.transcript)}”</p>")


def _plots(models: dict, truth, benchmark) -> str:
    figures = []
    for who, signals in models.items():
        if TOKENS in signals.scored:
            pair = plots.token_pair(signals.tokens_TC, truth.tokens_TC)
            figures.append(media.picture(plots.png(pair), "tokens"))
        if AUDIO in signals.scored & truth.scored:
            pair = plots.spectrogram_pair(signals.mel_TM, truth.mel_TM, signals.mel_rate)
            figures.append(f"<figure><figcaption>{html.escape(who)}</figcaption>"
                           f"{media.picture(plots.png(pair), 'spectrograms')}</figure>")
    moving = {who: signals for who, signals in models.items()
              if MOTION in signals.scored & truth.scored}
    if moving:
        pairs, threshold = plots.curve_pairs(benchmark, moving, truth)
        if pairs:
            drawn = plots.curves(pairs, benchmark.motion_fps, threshold)
            figures.append(media.picture(plots.png(drawn), "motion curves"))
    return "".join(figures)
