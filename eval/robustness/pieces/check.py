"""The text part, the Motion Mapper and the acoustic part, whichever a checkpoint has, at every seam
of the held-out dialogues: a piece that goes on from what all speakers said before, beside the same
piece made from nothing.

What was said before is the recording's, so that every piece begins with the same; each seam is one
of its own. The rows of a table are pieces that go on (`all said`), pieces that do not (`alone`),
the difference of the two with its interval, and where that can be had the dialogue in one go and
the recording. The visual part's last frames are not looked at. All ours by choice.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from avjax.errors import UserError
from eval import pooling
from eval.robustness.kept import Kept
from eval.robustness.pieces.heard import COLUMNS as OF_SOUND
from eval.robustness.pieces.heard import Heard
from eval.robustness.pieces.moved import COLUMNS as OF_MOTION
from eval.robustness.pieces.moved import Moved
from eval.robustness.pieces.said import COLUMNS as OF_TEXT
from eval.robustness.pieces.said import Said
from eval.robustness.pieces.seams import seams
from eval.robustness.subject import Subject

NAME = "pieces"
ALL, ALONE, DIFFERENCE, WHOLE, RECORDED = ("all said", "alone", "all said - alone", "in one go",
                                           "recorded")
OF = {"text": OF_TEXT, "mapper": OF_MOTION, "acoustic": OF_SOUND}
COLUMNS = {f"{part}: {name}": meaning for part, of in OF.items() for name, meaning in of.items()}
RECIPE = {"implementation": "avjax eval.robustness.pieces 2", "said before": "the recording's",
          "seams": "between turns that do not overlap", "over": "seams of all dialogues"}


def run(subject: Subject, splits: Sequence[str], kept: Kept, *,
        context: tuple[int, int] = (1024, 448)) -> dict:
    """{"tables": {"SPLIT, PART": {row: {column: entry}}}, "seams": {split: number}}; rows are kept.

    Args:
      context: units and text ids of the text model's rows, where the checkpoint has none.

    Raises UserError: a checkpoint with none of the three parts, features without turns.
    """
    parts = [name for name in OF if subject.has(name)]
    if not parts:
        subject.part("text")
    subject.need("turns", "units", *({"mapper": "motion", "acoustic": "mel"}[p] for p in parts
                                     if p != "text"))
    if subject.has("text"):
        config = subject.part("text")[0].config
        context = config.row_frames, config.row_tokens
    made = {name: _made(name, subject) for name in parts}
    tables, counts = {}, {}
    for split in splits:
        for name, part in made.items():
            rows = subject.source(split, part.fields)
            indices = range(len(rows.ids))[:subject.max_examples or None]
            if name == "text":
                part.look(rows)
            found: dict[str, list[dict]] = {}
            with kept.bar(len(indices), f"{name} {split}") as bar:
                for index in indices:
                    row, _ = kept.of(lambda rows=rows, index=index, part=part: (
                        _row(rows[index], part, context), {}), RECIPE["implementation"], name,
                        str(context), split, rows.ids[index])
                    for variant, values in row.items():
                        found.setdefault(variant, []).extend(values)
                    bar.update()
            if not any(found.values()):
                raise UserError("no seam to look at", where=f"split {split}",
                                expected="turns that do not overlap, of which two fit into "
                                f"{context[0]} units and {context[1]} text ids", found="none",
                                hint="longer rows: config.system.row_frames, row_tokens")
            tables[f"{split}, {name}"] = _table(found, name)
            counts[split] = len(found[ALL])
    return {"tables": tables, "seams": counts, "context": list(context)}


def _made(name: str, subject: Subject):
    system, params = subject.part(name)
    return {"text": lambda: Said(system, params, subject.seed),
            "mapper": lambda: Moved(system, params, _silence(subject)),
            "acoustic": lambda: Heard(system, params, subject.seed)}[name]()


def _silence(subject: Subject) -> int | None:
    """The unit of silence, which the text part knows."""
    known = subject.part("text")[0].config.filler if subject.has("text") else -1
    return known if known >= 0 else None


def _row(example: Mapping, part, context: tuple[int, int]) -> dict[str, list[dict]]:
    """{variant: numbers of every seam} of a dialogue."""
    found = list(seams(example["turns"], *context))
    out = {ALL: part.measured(example, found, True), ALONE: part.measured(example, found, False)}
    if isinstance(part, Moved):
        out[WHOLE] = part.measured(example, found, None)
    if not isinstance(part, Said):
        out[RECORDED] = part.recorded(example, found)
    return out


def _table(found: Mapping[str, list[dict]], part: str) -> dict[str, dict]:
    out = {variant: {f"{part}: {c}": _entry(rows, c) for c in OF[part]}
           for variant, rows in found.items()}
    out[DIFFERENCE] = {f"{part}: {c}": _difference(found, c) for c in OF[part]}
    if part == "text":  # of the recordings only the silence is known
        true = [{"gap": row["true gap"]} for row in found[ALL]]
        out[RECORDED] = {"text: gap": _entry(true, "gap")}
    return {row: out[row] for row in (ALL, ALONE, DIFFERENCE, WHOLE, RECORDED) if row in out}


def _values(rows: Sequence[dict], column: str) -> np.ndarray:
    """(n, columns) for `_statistic`."""
    names = ("gap", "true gap") if column == "gap W1" else (column,)
    return np.array([[np.nan if row.get(n) is None else row[n] for n in names] for row in rows],
                    np.float64)


def _statistic(x_nC: np.ndarray) -> np.ndarray:
    if x_nC.shape[-1] == 1:
        return pooling.mean(x_nC)
    own, true = (np.sort(x_nC[..., k], -1) for k in (0, 1))  # equally many: pair by pair
    return np.abs(own - true).mean(-1)


def _entry(rows: Sequence[dict], column: str) -> dict | None:
    values = _values(rows, column)
    values = values[np.isfinite(values).all(1)]
    return pooling.interval(values, _statistic) if len(values) else None


def _difference(found: Mapping[str, list[dict]], column: str) -> dict | None:
    pair = np.concatenate([_values(found[v], column) for v in (ALL, ALONE)], 1)
    pair = pair[np.isfinite(pair).all(1)]
    half = pair.shape[1] // 2
    return pooling.interval(pair, lambda x: _statistic(x[..., :half]) - _statistic(x[..., half:])
                            ) if len(pair) else None
