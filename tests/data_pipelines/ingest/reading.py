"""What tests of the readers of named corpora look at."""

import json
import pathlib

from data_pipelines import prepare as preparing
from data_pipelines.store import dataset as store


def made(dataset: str, source, out, **options) -> tuple[dict, dict, dict]:
    """Prepares one: ({id: clip, with its split}, {id: why it is left out}, what was told)."""
    told = preparing.prepare(dataset, source=str(source), out=str(out), progress=False, **options)
    return clips_of(out), refusals(out), told


def clips_of(out) -> dict[str, dict]:
    dataset = store.open_dataset(out)
    return {row["id"]: {**row, "mended": json.loads(row["mended"]), "split": split}
            for split in dataset.splits for row in dataset.source(split)}


def refusals(out) -> dict[str, str]:
    file = pathlib.Path(f"{out}.quarantine.jsonl")
    lines = file.read_text().splitlines() if file.is_file() else []
    return {one["id"]: one["reason"] for one in map(json.loads, lines)}
