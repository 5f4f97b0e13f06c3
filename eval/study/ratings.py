"""Reads a study's key and the files that raters sent back."""

import csv
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from avjax.errors import UserError
from avjax.storage import made
from eval.study.export import FORMAT

COLUMNS = ("study", "rater", "position", "trial", "question", "answer", "seconds")


@dataclasses.dataclass(frozen=True)
class Rating:
    """One answer to one question of a trial; `conditions` are one, or left and right."""

    rater: int
    question: str
    item: str
    conditions: tuple[str, ...]
    answer: str


@dataclasses.dataclass(frozen=True)
class Rater:
    """What one rater answered. `missed`: attention checks answered wrongly; `lacking`: trials
    without an answer, of `trials`."""

    number: int
    ratings: list[Rating]
    missed: int
    lacking: int
    trials: int


def read_key(path) -> dict:
    """The key that `eval.study.export.write` wrote. UserError for anything else."""
    path = pathlib.Path(path).expanduser()
    key = made.read(path)
    if key is None:
        raise UserError("no such key", where="--key", found=str(path),
                        hint="key.json, which avjax study export wrote beside the page")
    if key.get("format") != FORMAT or not {"study", "trials", "orders", "answers"} <= key.keys():
        raise UserError("not the key of a study", where=f"--key={path}",
                        expected=f"format {FORMAT}", found=str(key.get("format", "no format")))
    return key


def read(key: Mapping, paths: Sequence) -> list[Rater]:
    """The raters of all files, by their numbers. UserError: no file, unknown or missing columns,
    another study's answers, a rater twice, a trial or an answer that the study does not have."""
    found: dict[int, tuple[str, dict]] = {}
    for path in paths:
        for number, answers in _file(key, pathlib.Path(path).expanduser()).items():
            if number in found:
                raise UserError("a rater twice", where=str(path), found=f"rater {number}, also in "
                                f"{found[number][0]}", hint="keep one of them")
            found[number] = str(path), answers
    if not found:
        raise UserError("no ratings", expected="the CSV files that raters saved")
    return [_rater(key, number, found[number][1]) for number in sorted(found)]


def _file(key, path) -> dict[int, dict[tuple[str, str], str]]:
    """{rater: {(trial, question): answer}} of one file, which may hold several raters."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns, rows = tuple(table.fieldnames or ()), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError("unreadable ratings", where=str(path), expected="a CSV file",
                        found=str(error)) from error
    if set(columns) != set(COLUMNS) or len(columns) != len(COLUMNS):
        odd = [f"{c!r} unknown" for c in columns if c not in COLUMNS]
        odd += [f"{c!r} missing" for c in COLUMNS if c not in columns]
        raise UserError("other columns", where=str(path), expected=",".join(COLUMNS),
                        found=", ".join(odd) or "a column twice")
    if not rows:
        raise UserError("no ratings in this file", where=str(path))
    out: dict[int, dict[tuple[str, str], str]] = {}
    for line, row in enumerate(rows, 2):
        rater, trial, question, answer = _row(key, row, f"{path}:{line}")
        own = out.setdefault(rater, {})
        if (trial, question) in own:
            raise UserError("a trial answered twice", where=f"{path}:{line}",
                            found=f"rater {rater}, trial {trial}, question {question}")
        own[trial, question] = answer
    return out


def _row(key, row: Mapping, where: str) -> tuple[int, str, str, str]:
    def check(good: bool, what: str, expected: str, found: object) -> None:
        if not good:
            raise UserError(what, where=where, expected=expected, found=str(found))

    check(None not in row and None not in row.values(), "not a row of ratings",
          f"{len(COLUMNS)} values", "fewer or more")
    check(row["study"] == key["study"], "ratings of another study", key["study"], row["study"])
    count = len(key["orders"])
    check(row["rater"].isdecimal() and 1 <= int(row["rater"]) <= count, "no such rater",
          f"1 to {count}", row["rater"])
    rater = int(row["rater"])
    check(row["trial"] in key["orders"][rater - 1], "a trial that this rater did not get",
          "one of the key's", row["trial"])
    check(row["question"] in key["questions"], "no such question", " or ".join(key["questions"]),
          row["question"])
    check(row["answer"] in (*key["answers"], ""), "a rating off the scale",
          ", ".join(key["answers"]), row["answer"])
    return rater, row["trial"], row["question"], row["answer"]


def _rater(key, number: int, answers: Mapping[tuple[str, str], str]) -> Rater:
    ratings, missed, lacking = [], 0, 0
    for trial in key["orders"][number - 1]:
        about = key["trials"][trial]
        given = {q: answers.get((trial, q), "") for q in key["questions"]}
        if accepted := about.get("accept"):
            missed += any(answer and answer not in accepted for answer in given.values())
            continue
        lacking += not all(given.values())
        conditions = tuple(about.get("conditions") or (about["condition"],))
        ratings += [Rating(number, question, about["item"], conditions, answer)
                    for question, answer in given.items() if answer]
    trials = sum("accept" not in key["trials"][t] for t in key["orders"][number - 1])
    return Rater(number, ratings, missed, lacking, trials)
