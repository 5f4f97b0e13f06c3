"""A named corpus, as its owners lay it out -> a dataset of clips: what all their readers share.

A reader (data_pipelines/ingest/<name>/prepare.py) lists a corpus without decoding it and turns one
item of the list into clips; here the list is worked off. A killed job goes on where it was, several
processes, hosts or Beam's workers share it, and the dataset is the same. What cannot be used is an
`Unusable` with its reason, in OUT.quarantine.jsonl; what was mended is in the clip's column
`mended` (see `mended`), and both are counted in what is printed. Nothing is left out silently.

    def corpus(source, *, size=96) -> Corpus: ...        # lists; a function of the module

    def prepare(source, out, *, size: Annotated[int, Option(...)] = 96,
                max_bad: MaxBad = 0.5, parallel=None, progress=True):
        return common.prepare(corpus, source, out, dict(size=size), max_bad=max_bad,
                              parallel=parallel, progress=progress)

    DATASET = Ingest(prepare, in_parts=True, made_of=functools.partial(common.made_of, corpus))

A `corpus` that lists for long may have a parameter `kept`: a folder that the job keeps until it is
done, for what later starts and other parts can read instead; None where there is no job.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from avjax.errors import UserError
from data_pipelines.ingest.common import given_faces
from data_pipelines.store import columns, made_from, quarantine
from data_pipelines.store import dataset as store
from data_pipelines.store.merge import Part
from data_pipelines.store.resume import Partial, clean
from data_pipelines.store.schema import MENDED_FILE, NOTICED_FILE, Feature

FACES = "face_embeddings"
_PIECE = re.compile(r"(-\d{3,6})*(/\d)?$")  # what readers put behind a name: pieces and the side


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What a reader found, nothing of it decoded.

    Attributes:
      name: snake_case.
      description: one paragraph: whose it is, its licence, what is left out.
      features: the clips' columns, `mended` among them (data_pipelines.store.columns.py).
      items: {split: items in order}, each of them what JSON can hold: names, places, sizes, times.
        The splits are the owners'.
      read: item -> its clip or clips. Raises store.Unusable (or yields it) for what cannot be used.
      recipes: {column: how it is made}.
      codecs: {name: arrays that go along}, such as the owners' statistics.
      told: what the listing found and whoever started the job should know: {phrase: count}.
      file_of: (item, clip, prefix) -> the name of the file that a speaker of a clip is of, where
        neither the clip's id nor the speaker tells.
      given: digest of what the user has given beside the corpus.
    """

    name: str
    description: str
    features: dict[str, Feature]
    items: Mapping[str, Sequence[Any]]
    read: Callable[[Any], dict | Iterable[dict | store.Unusable]]
    recipes: dict[str, dict] = dataclasses.field(default_factory=dict)
    codecs: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    told: Mapping[str, int] = dataclasses.field(default_factory=dict)
    file_of: Callable[[Any, dict, str], str] | None = None
    given: str = ""

    def digest(self) -> str:
        """Of what was listed: another one means other clips."""
        content = [self.name, {split: list(items) for split, items in self.items.items()}]
        content += [self.given] if self.given else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def prepare(corpus: Callable[..., Corpus], source, out, options: Mapping[str, Any], *,
            max_bad: float, parallel=None, progress: bool = True) -> dict | None:
    """Makes the dataset OUT; returns the counts that it prints, None for a part when others are not
    whole.

    Args:
      corpus: (source, **options) -> Corpus; a function of a module, so that workers find it.
      source: the corpus' folder.
      out: folder to make, which must not exist; or a Part of it.
      options: of the reader, that decide what the clips are; `face_embeddings`, which is not the
        reader's, gives clips that column (given_faces.py).
      max_bad: largest share of the clips that may be unusable.
      parallel: workers (data_pipelines/store/beam.py) that make parts.

    Raises:
      UserError: no such folder, nothing in a split, too much that is unusable, a job of other
        options that was interrupted.
    """
    if parallel is not None:
        store.refuse_existing(out)
        part = functools.partial(_part, corpus, str(source), str(out), parallel.parts,
                                 dict(options), max_bad)
        parallel.for_each(part, range(parallel.parts))
        return told(pathlib.Path(out))
    folder = pathlib.Path(out)
    if not isinstance(out, Part):
        store.refuse_existing(folder)
    kept = folder.absolute().with_name(f".{folder.name}.listing")
    found = listed(corpus, source, options, kept)
    asked = {"listing": found.digest(),
             "options": {k: v for k, v in options.items() if k != FACES}}
    if folder.exists():  # a part that is started again after the end has nothing to do
        clean(folder)
        if not made_from.same(made_from.read(folder), asked):
            store.refuse_existing(folder)
        shutil.rmtree(kept, ignore_errors=True)
        return told(folder)
    made_from.ask(folder, asked, source)
    with Partial(out, {"dataset": found.name, **asked}) as job:
        dataset = store.write_dataset(
            job, name=found.name, description=found.description, features=found.features,
            splits={split: [functools.partial(_clips, found.read, item)
                            for item in found.items[split]]
                    # held-out ones first: an empty one is known before the others are read
                    for split in sorted(found.items, key="train".__eq__)},
            recipes=found.recipes, codecs=found.codecs, max_bad=max_bad, progress=progress,
            noticed={what: n for what, n in found.told.items() if n},
            totals={split: len(items) for split, items in found.items.items()})
    if dataset is None:
        return None
    shutil.rmtree(kept, ignore_errors=True)
    return told(folder)


def listed(corpus: Callable[..., Corpus], source, options: Mapping[str, Any],
           kept: pathlib.Path | None = None) -> Corpus:
    """What a reader finds in a folder. Raises UserError: no folder, nothing in a split."""
    if not pathlib.Path(source).is_dir():
        raise UserError("no such folder", where="--source", expected="the folder of the corpus",
                        found=str(source), hint="check --source")
    faces = given_faces.of_corpus(options.get(FACES), source)
    options = {k: v for k, v in options.items() if k != FACES}
    if "kept" in inspect.signature(corpus).parameters:
        options["kept"] = kept
    found = corpus(pathlib.Path(source), **options)
    if not found.items or not all(found.items.values()):
        empty = [split for split, items in found.items.items() if not items]
        raise UserError(f"nothing of {found.name} here", where=str(source),
                        expected="items in every split",
                        found=f"none in {', '.join(empty)}" if empty else "none",
                        hint="check --source, and which layout it has")
    return _with_faces(found, faces) if faces else found


def _with_faces(found: Corpus, faces: given_faces.Table) -> Corpus:
    """The corpus with a face embedding of every speaker of a clip."""
    prefixes = [p for p in columns.PREFIXES if f"{p}speaker" in found.features]
    features = {p + columns.FACE_EMBEDDING: columns.of_face(faces.width) for p in prefixes}
    return dataclasses.replace(found, features=found.features | features, given=str(faces.key),
                               read=functools.partial(_faced, found, faces, prefixes))


def _faced(found: Corpus, faces: given_faces.Table, prefixes: Sequence[str],
           item: Any) -> Iterator[dict | store.Unusable]:
    """The clips of an item with their embeddings; one that lacks one is unusable."""
    made = found.read(item)
    for clip in [made] if isinstance(made, dict) else made:
        if isinstance(clip, dict):
            for prefix in prefixes:
                names = _names(found, item, clip, prefix, alone=len(prefixes) == 1)
                x_F = faces.of(names)
                if x_F is None:
                    clip = store.Unusable("no face embedding", id=clip["id"], where=faces.where,
                                          expected=f"one of {', '.join(dict.fromkeys(names))}",
                                          found="none of these names")
                    break
                clip[prefix + columns.FACE_EMBEDDING] = x_F
        yield clip


def _names(found: Corpus, item: Any, clip: dict, prefix: str, *, alone: bool) -> list[str]:
    """What a speaker of a clip may be called in a table, the closest first."""
    speaker = clip[f"{prefix}speaker"]
    ids = [clip["id"], *([item["id"]] if isinstance(item, dict) else []),
           _PIECE.sub("", clip["id"])]
    return [*([found.file_of(item, clip, prefix)] if found.file_of else []),
            *(ids if alone else [f"{id}/{speaker}" for id in ids]), speaker]


def made_of(corpus: Callable[..., Corpus], arguments: Mapping[str, Any]) -> str:
    """Digest of what is in `source`, for declared.Ingest."""
    options = {k: v for k, v in arguments.items() if k not in ("source", "out", "max_bad")}
    return listed(corpus, arguments["source"], options).digest()


def _clips(read: Callable, item: Any) -> Iterator[dict | store.Unusable]:
    """What `read` makes of an item."""
    with left_out(str(item.get("id", "")) if isinstance(item, dict) else str(item)):
        made = read(item)
        yield from [made] if isinstance(made, dict) else made


@contextlib.contextmanager
def left_out(id: str, files: Iterable[os.PathLike] = ()) -> Iterator[None]:
    """Turns what an item cannot be used for into its `store.Unusable`: what libraries make of odd
    files (data_pipelines/store/quarantine.py; `files`: the item's own), and errors with a `reason`
    of few words. What ends the job is raised as it is."""
    try:
        yield
    except store.Unusable as error:
        error.of(error.id or id)
        raise
    except Exception as error:
        quarantine.check(error, files)
        reason = getattr(error, "reason", None)
        known = isinstance(error, UserError) and isinstance(reason, str)
        if isinstance(error, UserError) and not known:
            raise
        raise store.Unusable(reason if known else "unreadable", id=id,
                             found=str(error) if known else quarantine.said(error)) from error


def mended(*reasons: str) -> str:
    """The column `mended` of a clip: short phrases, the same for the same defect."""
    return json.dumps(list(reasons))


def _part(corpus, source: str, out: str, count: int, options: dict, max_bad: float,
          index: int) -> None:
    """One part; one that runs again when all is done has nothing to do."""
    if not pathlib.Path(out).exists():
        prepare(corpus, source, Part(pathlib.Path(out), index, count), options, max_bad=max_bad,
                progress=False)


def told(out: pathlib.Path, noticed: Mapping[str, int] | None = None) -> dict:
    """What a finished dataset has, what was left out and what was mended: printed, and returned.
    `noticed`: by whom it was made, where the dataset does not keep it."""
    dataset = store.open_dataset(out)
    found: dict[str, Any] = {f"clips of {split}": dataset.splits[split]
                             for split in sorted(dataset.splits, key="train".__ne__)}
    if noticed is None:
        file = dataset.dir / NOTICED_FILE
        noticed = json.loads(file.read_text()) if file.is_file() else {}
    found |= {what: n for what, n in noticed.items() if n}
    mended = json.loads((dataset.dir / MENDED_FILE).read_text())
    found |= {f"mended: {reason}": n for reason, n in mended.items()}
    file = out.with_name(f"{out.name}.quarantine.jsonl")
    lines = file.read_text().splitlines() if file.is_file() else []
    reasons = collections.Counter(json.loads(line)["reason"] for line in lines)
    found |= {f"left out: {reason}": n for reason, n in reasons.most_common()}
    width = max(map(len, found))
    print("\n".join(f"{name:>{width}}: {value}" for name, value in found.items()))
    print(f"written: {out}" + (f"; left out: {file}" if lines else ""))
    return found
