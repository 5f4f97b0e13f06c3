"""What a dataset that is made in parts was asked for, noted down beside it: .NAME.asked.json."""

import json
import pathlib

from avjax.storage import failures
from data_pipelines.store.merge import Part
from data_pipelines.store.resume import clean


def note_of(out: pathlib.Path) -> pathlib.Path:
    """The note's path."""
    return out.with_name(f".{out.name}.asked.json")


def made_before(part: Part, asked: dict) -> bool:
    """Whether the dataset is whole and was asked for in these words: a part that is started again
    after the end has nothing to do. Else notes down what is asked for, unless something else is
    there, which is to be refused."""
    out = pathlib.Path(part).absolute()
    note, text = note_of(out), json.dumps(asked)
    if out.exists():
        clean(out)
        return note.is_file() and note.read_text() == text
    out.parent.mkdir(parents=True, exist_ok=True)
    failures.write_text(note, text)
    return False
