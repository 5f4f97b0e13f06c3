"""Writes a study: OUT/page/, which raters get, and OUT/key.json, which they must not.

The page holds an index.html and media under names that tell nothing; it needs no network and no
server. Which file is of which condition, and what an attention check must be answered, is in the
key alone.
"""

import hashlib
import html
import importlib.resources
import json
import pathlib
import shutil
import string
from collections.abc import Mapping, Sequence

from avjax.errors import UserError
from avjax.storage import atomic, failures, lock, made
from avjax.weights.reader import file_sha256
from data_pipelines.media import write_media
from eval.study import design, stimuli

FORMAT = 1  # of the key
PAGE, KEY, MEDIA = "page", "key.json", "media"
KINDS = ("mos", "pairwise")
# absolute category rating of ITU-T P.800
LABELS = {"1": "Bad", "2": "Poor", "3": "Fair", "4": "Good", "5": "Excellent"}
SIDES = {"A": "A is better", "B": "B is better"}
TIE = {"=": "No difference"}
ASKED = {"mos": "How good is it overall?", "pairwise": "Which one is better overall?"}
TOLD = {"mos": "You will see or hear short recordings, one after the other. Play each to its end, "
               "then give your opinion of it from 1 (bad) to 5 (excellent). There are no right "
               "answers, except where a recording itself asks for one.",
        "pairwise": "You will see or hear pairs of short recordings. Play both to their ends, then "
                    "say which one is better. There are no right answers, except where a "
                    "recording itself asks for one."}
CHECK_SECONDS, CHECK_FPS = 2, 5


def answers(kind: str, ties: bool) -> dict[str, str]:
    """{answer in the CSV: what the rater reads}."""
    return LABELS if kind == "mos" else SIDES | (TIE if ties else {})


def questions(given: Sequence[str], kind: str) -> dict[str, str]:
    """{name: text} of NAME=TEXT; without any, one. UserError for another form."""
    out = {}
    for text in given:
        name, equals, asked = text.partition("=")
        if not (equals and asked.strip() and name.replace("_", "").isalnum() and name.isascii()):
            raise UserError("a question needs a name and a text", where="--question", found=text,
                            expected='--question=lips="Do the lips fit the sound?"')
        if out.setdefault(name, asked.strip()) != asked.strip():
            raise UserError("two questions of one name", where="--question", found=name)
    return out or {"overall": ASKED[kind]}


def declared_checks(given: Sequence[str], kind: str, known: Mapping[str, str]) -> list[dict]:
    """[{"files", "accept"}] of FILE=ANSWERS, or LEFT,RIGHT=ANSWERS of a pair. UserError for another
    form, no such file or answers that the scale does not have."""
    out = []
    for text in given:
        names, _, accepted = text.rpartition("=")
        files = [pathlib.Path(name).expanduser() for name in names.split(",") if name]
        accept = accepted.split(",")
        if len(files) != 1 + (kind == "pairwise") or not set(accept) <= known.keys():
            raise UserError("an attention check needs media and the answers that are right",
                            where="--catch", found=text, expected="LEFT,RIGHT=A" if kind ==
                            "pairwise" else "FILE=1,2", hint=f"answers are {', '.join(known)}")
        for path in files:
            if path.suffix.lower() not in stimuli.SUFFIXES or not path.is_file():
                raise UserError("no such media", where="--catch", found=str(path),
                                expected=" or ".join(stimuli.SUFFIXES))
        out.append({"files": files, "accept": accept})
    return out


def study(conditions: stimuli.Conditions, items: Sequence[str], *, kind: str, asked: dict[str, str],
          ties: bool, reference: str, layout: str, raters: int, seed: int,
          checks: Sequence[dict], said: Sequence[str] = ()) -> dict:
    """The key: everything that decides the page, as JSON values. `said`: what else raters read.

    Returns:
      {"study": its name, "format", "kind", "questions": {name: text}, "answers": {value: text},
      "conditions", "pairs", "design", "seed", "stimuli": {file: {"condition", "item", "sha256"}},
      "trials": {trial: {"media": [file], ...}}, "orders": [[trial]] of every rater}. A trial has
      "item" and "condition", or "item" and "conditions" (left, right), or the "accept"ed answers of
      an attention check.

    Raises UserError: fewer conditions than the kind needs, an unknown reference.
    """
    names = list(conditions)
    if kind == "pairwise" and len(names) < 2:
        raise UserError("nothing to compare", where="--kind=pairwise", expected="two conditions",
                        found=", ".join(names))
    if reference and (kind != "pairwise" or reference not in names):
        raise UserError("no such reference", where="--reference", found=reference,
                        expected=", ".join(names) if kind == "pairwise" else "--kind=pairwise")
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]
             if not reference or reference in (a, b)]
    about = {"format": FORMAT, "kind": kind, "questions": asked, "answers": answers(kind, ties),
             "conditions": names, "pairs": pairs if kind == "pairwise" else [], "design": layout,
             "seed": seed, "raters": raters}
    hashes = {(name, item): file_sha256(conditions[name][item]) for name in names for item in items}
    # names begin with a letter: spreadsheet programs take 12e45 for a number and save another
    name = "s" + made.digest([about, said, items, sorted(hashes.values()), [
        check | {"files": [file_sha256(path) for path in check["files"] if path.is_file()]}
        for check in checks]])

    def token(*of) -> str:
        return "t" + hashlib.sha256(repr((name, seed, *of)).encode()).hexdigest()[:12]

    files = {token(c, i) + conditions[c][i].suffix.lower(): {
        "condition": c, "item": i, "sha256": hashes[c, i]} for c in names for i in items}
    file_of = {(x["condition"], x["item"]): file for file, x in files.items()}
    trials: dict[str, dict] = {}
    orders: list[list[str]] = []
    if kind == "mos":
        for own in design.orders(len(items), len(names), raters, layout, seed):
            orders.append([token("trial", names[c], items[i]) for i, c in own])
        trials |= {token("trial", c, i): {"item": i, "condition": c, "media": [file_of[c, i]]}
                   for c in names for i in items}
    else:
        for own in design.sides(design.orders(len(items), len(pairs), raters, layout, seed)):
            orders.append([])
            for i, p, swapped in own:
                both = pairs[p][::-1] if swapped else pairs[p]
                orders[-1].append(token("trial", *both, items[i]))
                trials[orders[-1][-1]] = {"item": items[i], "conditions": list(both),
                                          "media": [file_of[c, items[i]] for c in both]}
    of_checks = []
    for k, check in enumerate(checks):
        media = [token("check", k, side) + path.suffix.lower()
                 for side, path in enumerate(check["files"])]
        of_checks.append(token("trial", "check", k))
        trials[of_checks[-1]] = {"media": media, "accept": check["accept"]}
    orders = [design.with_checks(own, of_checks, seed, rater) for rater, own in enumerate(orders)]
    return {"study": name, **about, "stimuli": files, "trials": trials, "orders": orders}


def page_of(key: Mapping, title: str, told: str, level: float | None) -> str:
    """The page's text. level: RMS of the beeps of the volume check; None for no check."""
    ids = sorted(key["trials"])  # in no telling order
    number = {trial: k for k, trial in enumerate(ids)}
    data = {"study": key["study"], "kind": key["kind"], "questions": key["questions"],
            "answers": key["answers"], "level": level and round(level, 5),
            "trials": [{"id": trial, "media": key["trials"][trial]["media"]} for trial in ids],
            "orders": [[number[trial] for trial in own] for own in key["orders"]],
            "folder": MEDIA, "video": [s for s, k in stimuli.SUFFIXES.items() if k == "video"]}
    return string.Template(_resource("page.html")).substitute(
        title=html.escape(title), told=html.escape(told), raters=len(key["orders"]),
        style=_resource("style.css"), script=_resource("study.js"),
        data=json.dumps(data).replace("<", "\\u003c"))


def write(out, conditions: stimuli.Conditions, items: Sequence[str], *, kind: str,
          asked: dict[str, str], ties: bool = False, reference: str = "", layout: str = "full",
          raters: int = 24, seed: int = 0, instructed: int = 2, catch: Sequence[str] = (),
          title: str = "Listening and viewing test", told: str = "") -> dict:
    """Writes the study into `out`, whole or not at all.

    Args:
      conditions, items: from eval.study.stimuli.
      instructed: attention checks that show what must be answered.
      catch: further ones, see `declared_checks`.

    Returns:
      The key. UserError: `out` holds something else; media that cannot be read.
    """
    out = pathlib.Path(out).expanduser()
    known = answers(kind, ties)
    own = declared_checks(catch, kind, known)
    paths = [conditions[name][item] for name in conditions for item in items]
    level = stimuli.level(paths)
    with lock.hold(lock.beside(out), "the study", out), failures.working_on(out):
        folder = out.with_name(f".{out.name}.incomplete")
        shutil.rmtree(folder, ignore_errors=True)
        media = folder / PAGE / MEDIA
        media.mkdir(parents=True)
        try:
            checks = [_instructed(folder, k, kind, known, seed) for k in range(instructed)] + own
            key = study(conditions, items, kind=kind, asked=asked, ties=ties, reference=reference,
                        layout=layout, raters=raters, seed=seed, checks=checks,
                        said=(title, told))
            if out.exists() and any(out.iterdir()):
                _check_same(out, key)
                return key
            for file, x in key["stimuli"].items():
                shutil.copyfile(conditions[x["condition"]][x["item"]], media / file)
            judged = [trial for trial in key["trials"].values() if "accept" in trial]
            for trial, check in zip(judged, checks, strict=True):
                for file, path in zip(trial["media"], check["files"], strict=True):
                    shutil.copyfile(path, media / file)
            shutil.rmtree(folder / "checks", ignore_errors=True)
            atomic.write(folder / PAGE / "index.html",
                         page_of(key, title, told or TOLD[kind], level))
            atomic.write(folder / KEY, json.dumps(key, indent=1) + "\n")
            if out.exists():
                out.rmdir()
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return key


def _check_same(out: pathlib.Path, key: Mapping) -> None:
    """UserError unless `out` holds this very study."""
    before = made.read(out / KEY) or {}
    if before.get("study") != key["study"]:
        raise UserError("another study, or something else, is here", where=f"--out={out}",
                        found=f"study {before['study']}" if "study" in before else "no key.json",
                        expected=f"study {key['study']}, or an empty folder",
                        hint="answers to it may be under way: use another folder")


def _instructed(folder: pathlib.Path, k: int, kind: str, known: Mapping[str, str],
                seed: int) -> dict:
    """A film that says what to answer."""
    right = list(known)[(seed + 3 * k + 1) % len(known)]
    said = f"Please answer {right}" if kind == "mos" else f"Please answer: {known[right]}"
    picture = stimuli.check_text({"This is a check.": 24, said: 34,
                                  "(to every question)": 18})
    path = folder / "checks" / f"{k}.mp4"
    write_media.write_mp4(path, [picture] * (CHECK_SECONDS * CHECK_FPS), CHECK_FPS)
    return {"files": [path] * (1 + (kind == "pairwise")), "accept": [right]}


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
