"""Results of several steps of one training: OUT/step_N/results.json, and OUT/history.jsonl with a
line a number, {"step", "split", "variant", "metric", "value", "low", "high"}, by step."""

import json
import pathlib
from collections.abc import Iterable

from avjax.errors import UserError
from avjax.storage import atomic
from eval.run.rows import clean
from eval.run.runner import RESULTS_FILE

FILE = "history.jsonl"


def folder(root, step: int) -> pathlib.Path:
    return pathlib.Path(root) / f"step_{step}"


def read(root) -> list[dict]:
    """The lines of the history; none where there is no file. UserError: unreadable."""
    path = pathlib.Path(root) / FILE
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()]
        _ = [line["step"] for line in found]
        return found
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("unreadable history", where=str(path), expected="a JSON object with a step "
                        "a line", found=f"{type(error).__name__}: {error}",
                        hint="delete it: it is written again from step_*/results.json") from error


def add(root, results: dict) -> None:
    """Puts the numbers of one step into the history, in the place of former ones; whole or not at
    all."""
    step = results["step"]
    lines = [line for line in read(root) if line["step"] != step]
    lines += [clean({"step": step, "split": split, "variant": variant, "metric": name,
                     **{key: entry.get(key) for key in ("value", "low", "high")}})
              for split, variants in results["summary"].items()
              for variant, metrics in variants.items() for name, entry in metrics.items()]
    lines.sort(key=lambda line: line["step"])
    atomic.write(pathlib.Path(root) / FILE,
                 "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def scored(root, step: int, splits: Iterable[str]) -> dict | None:
    """The results of a step whose examples of these splits were all scored, and are in the history
    from now on; else None."""
    try:
        results = json.loads((folder(root, step) / RESULTS_FILE).read_text())
        whole = set(results["summary"]) >= set(splits) and not results["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whole and not any(line["step"] == step for line in read(root)):
        add(root, results)  # killed before it was
    return results if whole else None
