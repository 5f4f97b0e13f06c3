"""report.html: one self-contained page with tables, targets, curves and some examples to see and
hear beside the ground truth; its plots are also files in plots/."""

import datetime
import html
import importlib.resources
import json
import pathlib
import string

from avjax.storage import atomic
from eval.registry import FAMILIES
from eval.report import energy, examples, history, plots, summary
from eval.report.drawn import Drawn
from eval.run import failed

REPORT_FILE = "report.html"
_PUPPETS = ("<p class=note>Puppets are drawn faces with synthetic voices whose every parameter is "
            "known. These numbers show that the model learned and that the plumbing works; they "
            "say nothing about realism.</p>")
_EXAMPLES = ("<h2 id=examples>Examples</h2><p class=note>Both sides go through the same codecs. "
             "None of these was seen in training.</p>")


def shows(out_dir, results: dict) -> bool:
    """Whether there is a report of these results' parameters."""
    path = pathlib.Path(out_dir) / REPORT_FILE
    return path.is_file() and f"parameters {results['params']}" in path.read_text()


def write(out_dir, results: dict, samples: list[dict], workdir=None) -> pathlib.Path:
    """Writes report.html, whole or not at all, and plots/.

    Args:
      out_dir: folder of the report; its history.jsonl gives scores over steps.
      results: what `eval.run.runner.Run.results` returned. Where it has "published": {column:
        {"source": text, "note": text, "values": {split: {metric: number}}}}, papers' numbers stand
        beside ours.
      samples: from `eval.run.runner.samples`: examples with the Signals of variants and truth.
      workdir: a training run's folder; its metrics.jsonl gives the curves.
    """
    about = [f"benchmark {results['benchmark']}", f"parameters {results['params']}"]
    if results.get("step") is not None:
        about.append(f"step {results['step']}")
    about.append(datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
    drawn = Drawn(out_dir)
    parts = [_PUPPETS] if "puppets" in results["benchmark"] else []
    parts += [summary.section(split, results, drawn) for split in results["summary"]]
    if lines := failed.lines(results):
        parts.append("<h2>Failed</h2><ul>" + "".join(f"<li>{html.escape(x)}</li>" for x in lines)
                     + "</ul>")
    parts += _over_steps(out_dir, workdir, drawn)
    shown = [examples.section(sample, drawn) for sample in samples]
    parts += [_EXAMPLES, *shown] if shown else []
    recipes = results["recipes"] | ({"expression energy": energy.RECIPE} if shown else {})
    page = fill(results.get("name") or results["benchmark"], " · ".join(about), "\n".join(parts),
                json.dumps(recipes, indent=1), _filters(results))
    path = pathlib.Path(out_dir) / REPORT_FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    atomic.write(path, page)
    drawn.forget_others(before)
    return path


def fill(name: str, about: str, body: str, recipes: str, filters: str = "") -> str:
    """A page's text. `body` and `filters` are HTML, the others plain."""
    return string.Template(resource("page.html")).substitute(
        name=html.escape(name), about=html.escape(about), body=body, filters=filters,
        recipes=html.escape(recipes), style=resource("style.css"),
        script=f"<script>\n{resource('report.js')}</script>" if filters else "")


def resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _over_steps(out_dir, workdir, drawn: Drawn) -> list[str]:
    """Scores at several steps, and the training's curves, where they are known."""
    parts = []
    for split, series in history.read_scores(out_dir, workdir).items():
        name = html.escape(split, quote=True)
        steps = sorted({int(step) for of in series.values() for x in of.values() for step in x[0]})
        image = drawn.picture(f"scores.{split}", plots.scores(series), f"scores over steps: "
                              f"{', '.join(series)}, steps {steps[0]} to {steps[-1]}")
        parts.append(f"<section data-item data-split='{name}' data-words='scores over steps "
                     f"{' '.join(series)}'><h2>Scores over steps <span class=soft>{name}</span>"
                     f"</h2>{image}</section>")
    if workdir and (curves := history.read_history(pathlib.Path(workdir) / history.TRAINING)):
        image = drawn.picture("training", plots.training_curves(curves),
                              f"training curves: {', '.join(curves)}")
        parts.append(f"<h2>Training</h2>{image}")
    return parts


def _filters(results: dict) -> str:
    """Of the tables' rows and the examples."""
    present = {m.family for split in results["summary"] for m in summary.metrics(results, split)}
    families = sorted(present, key=[*FAMILIES, *sorted(present)].index)

    def select(name: str, label: str, values) -> str:
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        return (f"<label>{label} <select id={name}><option value=''>all</option>{options}</select>"
                "</label>")

    return ("<form class=filters role=search aria-label='What is shown'>"
            f"{select('split', 'Split', results['summary'])}"
            f"{select('family', 'Metrics of', families)}"
            "<label>Search <input id=words type=search autocomplete=off></label>"
            "<button type=reset>Show all</button>"
            "<span id=count class=soft role=status></span></form>")
