"""Datasets on disk: ArrayRecord shards written and read through TFDS's machinery, without
TensorFlow.

A folder holds TFDS's features.json and dataset_info.json (so `tfds.builder_from_directory` reads it
too) and, besides,
    schema.json     meaning, unit and rate of every feature (TFDS has no place for these)
    recipes.json    how each feature was made
    ids.json        {split: [id of every record, in record order]}
    <shard>.<feature>   frames that can be read one by one (frames.py); TFDS does not see them
    lengths.npz     "<split>.<feature>": (records,) lengths of every sequence feature, for packing
    codecs/*.npz    fitted arrays
    mended.json     {defect that was mended: number of examples}, of clips with that column
    noticed.json    {what of the source whoever uses it should know: how often}, if anything
    made_from.json  what the dataset was made from (made_from.py)
    checksums.json  {file: {"sha256", "bytes"}} of the others, written last
It is written in a hidden sibling and renamed once complete, so an interrupted job leaves nothing
that looks finished (resume.py, also on how a job goes on after a kill).
Records are one to a group and uncompressed: random access is what training does, and float features
hardly compress.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from avjax.errors import StorageError, UserError
from avjax.storage import failures
from data_pipelines.store import frames, whole
from data_pipelines.store.merge import Merging
from data_pipelines.store.records import Records
from data_pipelines.store.resume import Partial, refuse_existing  # noqa: F401  (re-exported)
from data_pipelines.store.schema import (
    CHECKSUMS_FILE,
    CODECS_DIR,
    IDS_FILE,
    LENGTHS_FILE,
    MENDED,
    MENDED_FILE,
    NOTICED_FILE,
    RECIPES_FILE,
    SCHEMA_FILE,
    Feature,
    arrays_hash,
)
from data_pipelines.store.writer import Item, SplitWriter, Unusable, connector  # noqa: F401

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20  # a shard is closed once it holds this much
# or, in a job that can be continued, once it is so old: what a kill costs at most
SHARD_SECONDS = 60.0

# TFDS logs every file that it opens at level INFO through absl's logger; its warnings stay.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno > logging.INFO or "tensorflow_datasets" not in record.pathname)


def write_dataset(out_dir, *, name: str, description: str, features: dict[str, Feature],
                  splits: dict[str, Iterable[Item]], recipes: dict[str, dict],
                  codecs: dict[str, dict[str, np.ndarray]] | None = None,
                  totals: dict[str, int] | None = None, max_bad: float = 0.0,
                  progress: bool = True, noticed: dict[str, int] | None = None
                  ) -> "Dataset | None":
    """Writes a whole dataset, or nothing; or a part of one, and the whole when it was the last
    part.

    Args:
      out_dir: the folder to make, which must not exist; or an entered `Partial`, which may hold
        some of it already, or be one of several parts (items are functions then).
      name: snake_case name, also the prefix of the shard files.
      description: one paragraph for dataset_info.json.
      features: the columns; must contain "id" (str). Every example must have exactly these.
      splits: split name -> items, consumed lazily, in order; at least one example a split. An item
        is an example (numpy arrays of the declared shape and dtype, str for strings), or a function
        that makes one or several. Functions of items that an interrupted job has finished are not
        called again.
      recipes: feature name -> JSON dict that defines it.
      codecs: codec name -> arrays to keep beside the data.
      totals: split name -> number of items when known, for the progress bar only.
      max_bad: share of the examples that may be `Unusable` (raised by a function, or among what it
        makes). They are left out and listed in <out_dir>.quarantine.jsonl and on stderr.
        0: the first is an error.
      progress: show a bar on a terminal.
      noticed: {what of the source whoever uses it should know: how often}, kept beside the data.

    Returns:
      The opened dataset; None when this was a part and others are not whole.

    Raises:
      UserError: the folder exists, an example does not fit `features`, an id repeats, a split is
        empty, too many unusable.
    """
    if features.get("id", Feature((), "", "")).dtype != "str":
        raise UserError("a dataset needs ids", where="features", expected='"id", a str',
                        found=str(list(features)))
    with contextlib.ExitStack() as stack:
        job = out_dir if isinstance(out_dir, Partial) else stack.enter_context(Partial(out_dir))
        apart = [n for n, f in features.items() if f.apart]
        job.expect({"name": name, "recipes": recipes,
                    "features": {n: list(f.shape) for n, f in features.items()},
                    "codecs": {n: arrays_hash(arrays) for n, arrays in (codecs or {}).items()}}
                   | ({"apart": apart} if apart else {}))
        def written(job, splits, shown=None) -> SplitWriter:
            writer = SplitWriter(job, name, features, max_bad, SHARD_BYTES, SHARD_SECONDS)
            for split, items in splits.items():
                bar = tqdm(items, desc=f"writing {job.out_dir.name}/{split}",
                           total=(totals or {}).get(split), unit="clip",
                           disable=shown, leave=False)
                writer.write(split, bar)
            for split in splits:
                writer.join(split)
            return writer

        writer = written(job, splits, None if progress and job.part is None else True)
        if job.part is not None:
            job.whole()
            merging = stack.enter_context(Merging(job.part, job.shared))
            # other parts are not whole, or another one has just put them together
            if merging is None:
                return open_dataset(job.out_dir) if job.out_dir.exists() else None
            job, writer = merging, written(merging, dict.fromkeys(splits, ()), True)
        infos, tmp = [writer.close(split) for split in splits], job.data
        tfds.folder_dataset.write_metadata(
            data_dir=tmp, features=writer.connector, split_infos=infos, version=VERSION,
            check_data=False,
            description=description, disable_shuffling=True)
        _write_json(tmp / SCHEMA_FILE, {n: dataclasses.asdict(f) for n, f in features.items()})
        _write_json(tmp / RECIPES_FILE, recipes)
        _write_json(tmp / IDS_FILE, writer.ids, indent=None)
        if noticed:
            _write_json(tmp / NOTICED_FILE, noticed)
        if MENDED in features:
            _write_json(tmp / MENDED_FILE, dict(writer.mended.most_common()))
        np.savez(tmp / LENGTHS_FILE, **{key: np.asarray(values, np.int32) for key,
                                        values in writer.lengths.items()})
        for codec, arrays in (codecs or {}).items():
            (tmp / CODECS_DIR).mkdir(exist_ok=True)
            np.savez(tmp / CODECS_DIR / f"{codec}.npz", **arrays)
        files = sorted(p for p in tmp.rglob("*") if p.is_file())
        _write_json(tmp / CHECKSUMS_FILE,
                    {p.relative_to(tmp).as_posix(): whole.fingerprint(p) for p in files})
        if max_bad:
            writer.tell_refused()
        job.finish()
    return open_dataset(job.out_dir)


def open_dataset(directory, *, begun: bool = False) -> "Dataset":
    """Opens a dataset after cheap checks: every file is there with its recorded size, and the small
    ones are unchanged.

    Args:
      directory: a folder made by `write_dataset`.
      begun: the job has read it before, so a missing folder is not a wrong path.

    Raises:
      UserError: missing, half-written, foreign, truncated or edited; names the file and gives a
        hint.
      StorageError: what is there cannot be read, or (`begun`) it is missing.
    """
    directory = pathlib.Path(directory).absolute()
    missing = StorageError if begun else UserError
    if not directory.is_dir():
        raise missing("no dataset here", where=str(directory),
                      expected="a folder made by avjax prepare or "
                      "avjax extract", found="a file" if directory.exists() else "nothing",
                      hint=whole.BRING if begun else "check the path or make the dataset first")
    if not (directory / CHECKSUMS_FILE).is_file():
        raise UserError("dataset is not whole", where=str(directory),
                        expected=f"{CHECKSUMS_FILE} (written last)",
                        found="none: the job that wrote or copied it was interrupted, or this is "
                        "another kind of folder",
                        hint="copy the folder again, or name another one")
    checksums = whole.read_json(directory / CHECKSUMS_FILE)
    if not isinstance(checksums, dict) or not all(isinstance(c, dict) and "bytes" in c
                                                  for c in checksums.values()):
        raise UserError("foreign checksums", where=str(directory / CHECKSUMS_FILE),
                        hint="copy the folder again, or name another one")
    whole.check_entries(directory, checksums, "features.json", "dataset_info.json", SCHEMA_FILE,
                        RECIPES_FILE, IDS_FILE)
    for file, recorded in checksums.items():
        whole.check_file(directory / file, recorded, contents=file.endswith(".json"),
                         missing=missing)
    schema = {n: Feature(**f | {"shape": tuple(f["shape"])})
              for n, f in whole.read_json(directory / SCHEMA_FILE).items()}
    builder = tfds.builder_from_directory(str(directory))
    shards = [shard for split in builder.info.splits.values() for shard in split.filenames]
    apart = [frames.beside(s, n) for s in shards for n, f in schema.items() if f.apart]
    whole.check_entries(directory, checksums, *shards, *apart, *([LENGTHS_FILE] if apart else ()))
    found = {n: _describe(f) for n, f in builder.info.features.items()}
    expected = {n: (f.shape, f.dtype) for n, f in schema.items() if not f.apart}
    if found != expected:
        raise UserError("features.json does not fit schema.json", where=str(directory),
                        expected=str(expected),
                        found=str(found), hint=whole.REMAKE)
    return Dataset(directory, builder.info.name, builder.info.description, schema,
                   whole.read_json(directory / RECIPES_FILE),
                   {n: s.num_examples for n, s in builder.info.splits.items()},
                   {n: tuple(zip(s.filenames, s.shard_lengths, strict=True))
                    for n, s in builder.info.splits.items()}, checksums)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened dataset. `splits` maps split names to their number of examples, `shards` to
    (name of a file, its number of examples)."""

    dir: pathlib.Path
    name: str
    description: str
    features: dict[str, Feature]
    recipes: dict[str, dict]
    splits: dict[str, int]
    shards: dict[str, tuple[tuple[str, int], ...]]
    checksums: dict[str, dict]

    def source(self, split: str, fields: Iterable[str] | None = None, *,
               lazy: bool = False) -> "Source":
        """Random access to the examples of a split, decoding `fields` only (all by default). With
        `lazy`, those stored apart are `frames.Frames`, of which what is indexed is read."""
        if split not in self.splits:
            raise UserError("unknown split", where=str(self.dir), expected=" or ".join(self.splits),
                            found=split,
                            hint="name one of the dataset's splits")
        fields = tuple(self.features if fields is None else fields)
        for field in fields:
            if field not in self.features:
                raise UserError("unknown feature", where=str(self.dir),
                                expected=" or ".join(self.features),
                                found=field)
        return Source(self, split, fields, lazy)

    @property
    def content(self) -> str:
        """16 hex digits over the checksums of all files."""
        return hashlib.sha256(json.dumps(self.checksums, sort_keys=True).encode()).hexdigest()[:16]

    @functools.cached_property
    def ids(self) -> dict[str, list[str]]:
        """{split: ids in record order}."""
        return whole.read_json(self.dir / IDS_FILE)

    def lengths(self, split: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """{sequence feature: (examples,) int32 lengths}; read from the records where the dataset is
        an older one."""
        keys = {n: f"{split}.{n}" for n in names}
        if LENGTHS_FILE in self.checksums:
            whole.check_file(self.dir / LENGTHS_FILE, self.checksums[LENGTHS_FILE], contents=True)
            with np.load(self.dir / LENGTHS_FILE, allow_pickle=False) as arrays:
                return {n: arrays[key] for n, key in keys.items()}
        rows = [{n: len(example[n]) for n in keys} for example in self.source(split, keys)]
        return {n: np.array([row[n] for row in rows], np.int32) for n in keys}

    @property
    def codecs(self) -> tuple[str, ...]:
        """Names of the fitted codecs kept with the data."""
        prefix = CODECS_DIR + "/"
        return tuple(f[len(prefix):-len(".npz")] for f in self.checksums if f.startswith(prefix))

    def codec(self, name: str) -> dict[str, np.ndarray]:
        """The fitted arrays of one codec."""
        if name not in self.codecs:
            raise UserError("unknown codec", where=str(self.dir / CODECS_DIR),
                            expected=" or ".join(self.codecs) or "none", found=name,
                            hint="make the dataset again with this codec")
        file = f"{CODECS_DIR}/{name}.npz"
        whole.check_file(self.dir / file, self.checksums[file], contents=True)
        with np.load(self.dir / file, allow_pickle=False) as arrays:
            return dict(arrays)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256; UserError names the first that differs."""
        for file, recorded in self.checksums.items():
            whole.check_file(self.dir / file, recorded, contents=True)


class Source(Sequence):
    """Examples of one split by index: dicts of read-only numpy arrays and str. Threads may share
    it; it pickles."""

    def __init__(self, dataset: Dataset, split: str, fields: tuple[str, ...], lazy: bool = False):
        self._dataset, self._split, self._fields, self._lazy = dataset, split, fields, lazy
        self._features = dataset.features
        self._connector = connector({f: dataset.features[f] for f in fields})
        shards = dataset.shards[split]
        self._records = Records([(dataset.dir / file, count, dataset.checksums[file]["sha256"])
                                 for file, count in shards])
        apart = [n for n in fields if dataset.features[n].apart]
        lengths = dataset.lengths(split, apart) if apart else {}
        # (first frame in the shard's file, frames) of every example
        self._apart = {n: np.stack([frames.starts(lengths[n], [count for _, count in shards]),
                                    lengths[n]], 1) for n in apart}

    @property
    def ids(self) -> list[str]:
        return self._dataset.ids[self._split]

    def __len__(self) -> int:
        return self._dataset.splits[self._split]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        with self._explained(index):
            example = self._connector.deserialize_example_np(self._records[index])
            example = {n: v.decode() if self._features[n].dtype == "str" else v for n,
                       v in example.items()}
        for name in self._apart:
            frames_of = self._frames(name, index)
            example[name] = frames_of if self._lazy else np.asarray(frames_of)
        return example

    def _frames(self, name: str, index: int) -> frames.Frames:
        shard = self._records.shard_of(index)
        path = shard.with_name(frames.beside(shard.name, name))
        start, length = map(int, self._apart[name][index])
        return frames.Frames(path, start, length, self._features[name],
                             self._dataset.checksums[path.name]["sha256"],
                             functools.partial(self._explained, index, path))

    def __repr__(self) -> str:
        return f"Source({str(self._dataset.dir)!r}, {self._split!r}, fields={self._fields})"

    @contextlib.contextmanager
    def _explained(self, index: int, file: pathlib.Path | None = None):
        """Turns errors of ArrayRecord and protobuf into ones that name the file: a shard is corrupt
        only if its checksum differs; otherwise the storage failed."""
        try:
            yield
        except (UserError, StorageError):
            raise
        except Exception as error:
            shard = file or self._records.shard_of(index)
            failures.check(error, shard)
            said = (f"{type(error).__name__} at example {index} of split {self._split}: "
                    f"{str(error)[:200]}")
            with failures.working_on(shard):
                whole.check_file(shard, self._dataset.checksums[shard.name], contents=True,
                                 said=said)
            raise StorageError("a shard could not be read, but is whole now", where=str(shard),
                               found=said, hint="start the same command again") from error


def _describe(feature) -> tuple:
    if isinstance(feature, tfds.features.Text):
        return (), "str"
    return tuple(feature.shape), np.dtype(feature.np_dtype).name


def _write_json(path: pathlib.Path, value, indent=1) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n")
