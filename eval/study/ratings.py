"""Reads a study's key and the files that raters sent back, also those that a spreadsheet program
has saved anew: with semicolons or tabs, in UTF-16, with a byte order mark, with empty lines."""

import codecs
import contextlib
import csv
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from avjax.errors import UserError
from avjax.storage import made
from eval.study.export import FORMAT

# byte order mark -> encoding
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SEPARATED_BY = "sep="  # the line that some programs write above the header
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
    of = {"study": str, "kind": str, "questions": dict, "answers": dict, "conditions": list,
          "pairs": list, "trials": dict, "orders": list}
    if key.get("format") != FORMAT or not all(isinstance(key.get(name), kind)
                                              for name, kind in of.items()):
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
        columns, rows = table(path.read_bytes())
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError("unreadable ratings", where=str(path), expected="a CSV file in UTF-8 or "
                        "UTF-16", found=str(error),
                        hint="give the file as the page saved it") from error
    if not columns:
        raise UserError("no ratings in this file", where=str(path), found="an empty file")
    if sorted(columns) != sorted(COLUMNS):
        odd = [f"{c!r} unknown" for c in columns if c not in COLUMNS]
        odd += [f"{c!r} missing" for c in COLUMNS if c not in columns]
        raise UserError("other columns", where=str(path), expected=",".join(COLUMNS) +
                        ", separated by " + ", ".join(SEPARATORS.values()),
                        found=", ".join(odd) or "a column twice")
    if not rows:
        raise UserError("no ratings in this file", where=str(path), found="a header alone")
    out: dict[int, dict[tuple[str, str], str]] = {}
    for line, values in rows:
        where = f"{path}:{line}"
        if len(values) != len(columns):
            raise UserError("not a row of ratings", where=where,
                            expected=f"{len(COLUMNS)} values", found=str(len(values)))
        rater, trial, question, answer = _row(key, dict(zip(columns, values, strict=True)), where)
        own = out.setdefault(rater, {})
        if (trial, question) in own:
            raise UserError("a trial answered twice", where=f"{path}:{line}",
                            found=f"rater {rater}, trial {trial}, question {question}")
        own[trial, question] = answer
    return out


def table(content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(columns, [(line, values)]) of the content of a CSV file; no columns of an empty one.

    Encoding and separator are told by the file itself: a byte order mark, every other byte of the
    first two being zero, else UTF-8; of the header's separators the one that gives most of COLUMNS.
    Blanks about values, lines without values, and columns at the end without any are left out.
    Raises UnicodeError, csv.Error.
    """
    lines = content.decode(_encoding(content)).splitlines(keepends=True)
    first, separators = 1, list(SEPARATORS)
    if lines and lines[0].lower().startswith(SEPARATED_BY):
        told = lines[0].rstrip("\r\n")[len(SEPARATED_BY):]
        separators = [told] if told in SEPARATORS else separators
        lines, first = lines[1:], 2
    text = "".join(lines)

    def known(separator: str) -> int:
        header: list[str] = []
        with contextlib.suppress(csv.Error, StopIteration):  # of another separator, say
            _, header = next(_rows(text, separator, first))
        return len(set(COLUMNS) & set(header))

    rows = list(_rows(text, max(separators, key=known), first))
    if not rows:
        return [], []
    width = max((k for _, values in rows for k, value in enumerate(values, 1) if value))
    rows = [(line, values[:width]) for line, values in rows]
    return rows[0][1], rows[1:]


def _encoding(content: bytes) -> str:
    for mark, name in MARKS.items():
        if content.startswith(mark):
            return name
    if b"\0" in content[:2]:
        return "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    return "utf-8"


def _rows(text: str, separator: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of each line with any; `first`: the number of the first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    for values in reader:
        values = [value.strip() for value in values]
        if any(values):
            yield first + reader.line_num - 1, values


def _row(key, row: Mapping, where: str) -> tuple[int, str, str, str]:
    def check(good: bool, what: str, expected: str, found: object) -> None:
        if not good:
            raise UserError(what, where=where, expected=expected, found=str(found))

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
