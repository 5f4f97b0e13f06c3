"""Datasets on disk: ArrayRecord shards written and read through TFDS's machinery, without TensorFlow.

A folder holds TFDS's features.json and dataset_info.json (so `tfds.builder_from_directory` reads it too) and, besides,
    schema.json     meaning, unit and rate of every feature (TFDS has no place for these)
    recipes.json    how each feature was made
    ids.json        {split: [id of every record, in record order]}
    lengths.npz     "<split>.<feature>": (records,) lengths of every sequence feature, so that packing need not read
    codecs/*.npz    fitted arrays
    checksums.json  {file: {"sha256", "bytes"}}, written last
It is written in a hidden sibling and renamed once whole, so an interrupted job leaves nothing that looks finished.
Records are one to a group and uncompressed: random access is what training does, and float features hardly compress.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tqdm import tqdm

from avjax.errors import UserError
from data_pipelines.schema import (
    CHECKSUMS_FILE,
    CODECS_DIR,
    IDS_FILE,
    LENGTHS_FILE,
    RECIPES_FILE,
    SCHEMA_FILE,
    Feature,
)

VERSION = "1.0.0"
SHARD_BYTES = 256 * 2**20  # a shard is closed once it holds this much
_RECORD_OPTIONS = "group_size:1,uncompressed"
_SUFFIX = "array_record"
_REMAKE = "delete the folder and make the dataset again"

# TFDS logs every file that it opens at level INFO through absl's logger; its warnings stay.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno > logging.INFO or "tensorflow_datasets" not in record.pathname)


def write_dataset(out_dir, *, name: str, description: str, features: dict[str, Feature],
                  splits: dict[str, Iterable[dict]], recipes: dict[str, dict],
                  codecs: dict[str, dict[str, np.ndarray]] | None = None, totals: dict[str, int] | None = None,
                  progress: bool = True) -> "Dataset":
    """Writes a whole dataset, or nothing.

    Args:
      out_dir: the folder to make; must not exist.
      name: snake_case name, also the prefix of the shard files.
      description: one paragraph for dataset_info.json.
      features: the columns; must contain "id" (str). Every example must have exactly these.
      splits: split name -> examples (numpy arrays of the declared shape and dtype, str for strings). Consumed lazily,
        in order; at least one example a split.
      recipes: feature name -> JSON dict that defines it.
      codecs: codec name -> arrays to keep beside the data.
      totals: split name -> number of examples when known, for the progress bar only.
      progress: show a bar on a terminal.

    Returns:
      The opened dataset.

    Raises:
      UserError: the folder exists, an example does not fit `features`, an id repeats, a split is empty.
    """
    out_dir = pathlib.Path(out_dir).absolute()
    refuse_existing(out_dir)
    if features.get("id", Feature((), "", "")).dtype != "str":
        raise UserError("a dataset needs ids", where="features", expected='"id", a str', found=str(list(features)))
    with _partial_folder(out_dir) as tmp:
        connector = _connector(features)
        seen, ids, infos, lengths = set(), {}, [], {}
        for split, examples in splits.items():
            bar = tqdm(examples, desc=f"writing {out_dir.name}/{split}", total=(totals or {}).get(split), unit="clip",
                       disable=None if progress else True, leave=False)
            infos.append(_write_split(tmp, name, split, bar, features, connector, seen, ids, lengths))
        tfds.folder_dataset.write_metadata(
            data_dir=tmp, features=connector, split_infos=infos, version=VERSION, check_data=False,
            description=description, disable_shuffling=True)
        _write_json(tmp / SCHEMA_FILE, {n: dataclasses.asdict(f) for n, f in features.items()})
        _write_json(tmp / RECIPES_FILE, recipes)
        _write_json(tmp / IDS_FILE, ids, indent=None)
        np.savez(tmp / LENGTHS_FILE, **{key: np.asarray(values, np.int32) for key, values in lengths.items()})
        for codec, arrays in (codecs or {}).items():
            (tmp / CODECS_DIR).mkdir(exist_ok=True)
            np.savez(tmp / CODECS_DIR / f"{codec}.npz", **arrays)
        files = sorted(p for p in tmp.rglob("*") if p.is_file())
        _write_json(tmp / CHECKSUMS_FILE, {p.relative_to(tmp).as_posix(): _fingerprint(p) for p in files})
    return open_dataset(out_dir)


def refuse_existing(out_dir) -> None:
    """UserError when a dataset's folder is already there; for jobs that work for long before they write."""
    if pathlib.Path(out_dir).exists():
        raise UserError("refusing to overwrite", where=str(out_dir), expected="a folder that does not exist",
                        way_out="choose another folder or delete this one")


def open_dataset(directory) -> "Dataset":
    """Opens a dataset after cheap checks: every file is there with its recorded size, and the small ones are unchanged.

    Raises:
      UserError: missing, half-written, foreign, truncated or edited; names the file and the way out.
    """
    directory = pathlib.Path(directory).absolute()
    if not directory.is_dir():
        raise UserError("no dataset here", where=str(directory), expected="a folder made by launch.prepare or "
                        "launch.extract", found="a file" if directory.exists() else "nothing",
                        way_out="check the path or make the dataset first")
    if not (directory / CHECKSUMS_FILE).is_file():
        raise UserError("dataset is not whole", where=str(directory), expected=f"{CHECKSUMS_FILE} (written last)",
                        found="none: the job that wrote it was interrupted, or this is another kind of folder",
                        way_out=_REMAKE)
    checksums = _read_json(directory / CHECKSUMS_FILE)
    if not isinstance(checksums, dict) or not all(isinstance(c, dict) and "bytes" in c for c in checksums.values()):
        raise UserError("foreign checksums", where=str(directory / CHECKSUMS_FILE), way_out=_REMAKE)
    for needed in ("features.json", "dataset_info.json", SCHEMA_FILE, RECIPES_FILE, IDS_FILE):
        if needed not in checksums:
            raise UserError("dataset is not whole", where=str(directory / CHECKSUMS_FILE),
                            expected=f"an entry {needed}", found="none", way_out=_REMAKE)
    for file, recorded in checksums.items():
        _check_file(directory / file, recorded, contents=file.endswith(".json"))
    schema = {n: Feature(tuple(f["shape"]), f["dtype"], f["meaning"], f["unit"], f["rate"])
              for n, f in _read_json(directory / SCHEMA_FILE).items()}
    builder = tfds.builder_from_directory(str(directory))
    found = {n: _describe(f) for n, f in builder.info.features.items()}
    expected = {n: (f.shape, f.dtype) for n, f in schema.items()}
    if found != expected:
        raise UserError("features.json does not fit schema.json", where=str(directory), expected=str(expected),
                        found=str(found), way_out=_REMAKE)
    return Dataset(directory, builder.info.name, builder.info.description, schema,
                   _read_json(directory / RECIPES_FILE), {n: s.num_examples for n, s in builder.info.splits.items()},
                   checksums)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened dataset. `splits` maps split names to their number of examples."""

    dir: pathlib.Path
    name: str
    description: str
    features: dict[str, Feature]
    recipes: dict[str, dict]
    splits: dict[str, int]
    checksums: dict[str, dict]

    def source(self, split: str, fields: Iterable[str] | None = None) -> "Source":
        """Random access to the examples of a split, decoding `fields` only (all by default)."""
        if split not in self.splits:
            raise UserError("unknown split", where=str(self.dir), expected=" or ".join(self.splits), found=split,
                            way_out="name one of the dataset's splits")
        fields = tuple(self.features if fields is None else fields)
        for field in fields:
            if field not in self.features:
                raise UserError("unknown feature", where=str(self.dir), expected=" or ".join(self.features),
                                found=field)
        return Source(self, split, fields)

    @functools.cached_property
    def ids(self) -> dict[str, list[str]]:
        """{split: ids in record order}."""
        return _read_json(self.dir / IDS_FILE)

    def lengths(self, split: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """{sequence feature: (examples,) int32 lengths}; read from the records where the dataset is an older one."""
        keys = {n: f"{split}.{n}" for n in names}
        if LENGTHS_FILE in self.checksums:
            _check_file(self.dir / LENGTHS_FILE, self.checksums[LENGTHS_FILE], contents=True)
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
                            way_out="make the dataset again with this codec")
        file = f"{CODECS_DIR}/{name}.npz"
        _check_file(self.dir / file, self.checksums[file], contents=True)
        with np.load(self.dir / file, allow_pickle=False) as arrays:
            return dict(arrays)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256; UserError names the first that differs."""
        for file, recorded in self.checksums.items():
            _check_file(self.dir / file, recorded, contents=True)


class Source(Sequence):
    """Examples of one split by index: dicts of read-only numpy arrays and str. Threads may share it; it pickles."""

    def __init__(self, dataset: Dataset, split: str, fields: tuple[str, ...]):
        self._dataset, self._split, self._fields = dataset, split, fields
        self._features = dataset.features
        self._connector = _connector({f: dataset.features[f] for f in fields})
        builder = tfds.builder_from_directory(str(dataset.dir))
        self._info = builder.info.splits[split]
        with self._explained(0):
            self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

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
            return {n: v.decode() if self._features[n].dtype == "str" else v for n, v in example.items()}

    def __repr__(self) -> str:
        return f"Source({str(self._dataset.dir)!r}, {self._split!r}, fields={self._fields})"

    @contextlib.contextmanager
    def _explained(self, index: int):
        """ArrayRecord's and protobuf's errors say neither which file nor what to do."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError("corrupt or truncated shard", where=str(self._shard(index)), expected="a readable record",
                            found=f"{type(error).__name__} at example {index} of split {self._split}: "
                            f"{str(error)[:200]}", way_out=_REMAKE) from error

    def _shard(self, index: int) -> pathlib.Path:
        bounds = np.cumsum(self._info.shard_lengths)
        return self._dataset.dir / self._info.filenames[int(np.searchsorted(bounds, index, side="right"))]


def _write_split(tmp, name, split, examples, features, connector, seen, ids, lengths):
    """Writes one split's shards; returns its TFDS SplitInfo. Adds to `seen`, `ids` and `lengths`."""
    serializer = connector._example_serializer  # TFDS's own; `encode_example` + this is what its writers call
    shard_lengths, num_bytes, ids[split] = [], 0, []
    sequences = {n: lengths.setdefault(f"{split}.{n}", []) for n, f in features.items() if f.shape[:1] == (None,)}
    writer, size = None, 0
    try:
        for example in examples:
            _check_example(example, features, split, seen)
            ids[split].append(example["id"])
            for feature, values in sequences.items():
                values.append(len(example[feature]))
            record = serializer.serialize_example(connector.encode_example(example))
            if writer is None:
                writer, size = array_record_module.ArrayRecordWriter(
                    str(tmp / f"{split}-{len(shard_lengths):05d}.open"), _RECORD_OPTIONS), 0
                shard_lengths.append(0)
            writer.write(record)
            shard_lengths[-1] += 1
            size, num_bytes = size + len(record), num_bytes + len(record)
            if size >= SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    if not shard_lengths:
        raise UserError("empty split", where=split, expected="at least one example", found="none",
                        way_out="give it examples or leave it out")
    template = tfds.core.ShardedFileTemplate(data_dir=tmp, dataset_name=name, split=split, filetype_suffix=_SUFFIX)
    for i in range(len(shard_lengths)):
        final = template.sharded_filepath(shard_index=i, num_shards=len(shard_lengths))
        os.rename(tmp / f"{split}-{i:05d}.open", str(final))
    return tfds.core.SplitInfo(name=split, shard_lengths=shard_lengths, num_bytes=num_bytes, filename_template=template)


def _check_example(example: dict, features: dict[str, Feature], split: str, seen: set) -> None:
    where = f"split {split}, example {example.get('id')!r}"
    if example.keys() != features.keys():
        raise UserError("example does not fit the schema", where=where, expected=str(sorted(features)),
                        found=str(sorted(example)))
    if example["id"] in seen:
        raise UserError("id is not unique", where=where, way_out="give every example its own id")
    seen.add(example["id"])
    for name, feature in features.items():
        value = example[name]
        if feature.dtype == "str":
            if not isinstance(value, str):
                raise UserError("wrong type", where=f"{where}, {name}", expected="str", found=type(value).__name__)
            continue
        value = np.asarray(value)
        fits = len(value.shape) == len(feature.shape) and all(
            e in (None, s) for e, s in zip(feature.shape, value.shape, strict=True))
        if not fits or value.dtype != np.dtype(feature.dtype):
            raise UserError("array does not fit the schema", where=f"{where}, {name}",
                            expected=f"{feature.dtype} {feature.shape}", found=f"{value.dtype} {value.shape}")


def _connector(features: dict[str, Feature]) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict({
        n: tfds.features.Text() if f.dtype == "str" else
        tfds.features.Tensor(shape=f.shape, dtype=np.dtype(f.dtype), encoding=tfds.features.Encoding.BYTES)
        for n, f in features.items()})


def _describe(feature) -> tuple:
    if isinstance(feature, tfds.features.Text):
        return (), "str"
    return tuple(feature.shape), np.dtype(feature.np_dtype).name


@contextlib.contextmanager
def _partial_folder(out_dir: pathlib.Path):
    """A hidden sibling that becomes `out_dir` on success and disappears on any error or Ctrl-C."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out_dir.name}.partial-{socket.gethostname()}-"
    for left_over in out_dir.parent.glob(prefix + "*"):  # of jobs on this machine that were killed
        if not _alive(left_over.name[len(prefix):]):
            shutil.rmtree(left_over, ignore_errors=True)
    tmp = out_dir.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        yield tmp
        try:
            os.rename(tmp, out_dir)
        except OSError as error:
            raise UserError("cannot move the finished dataset into place", where=str(out_dir), found=str(error),
                            way_out="is another job writing the same folder?") from error
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _fingerprint(path: pathlib.Path) -> dict:
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _check_file(path: pathlib.Path, recorded: dict, *, contents: bool) -> None:
    if not path.is_file():
        raise UserError("file of the dataset is missing", where=str(path), expected=f"{recorded['bytes']} bytes",
                        found="no file", way_out=f"copy it again, or {_REMAKE}")
    size = path.stat().st_size
    if size != recorded["bytes"]:
        raise UserError("truncated or overwritten file", where=str(path), expected=f"{recorded['bytes']} bytes",
                        found=f"{size} bytes", way_out=f"copy it again, or {_REMAKE}")
    if contents and (found := _fingerprint(path)["sha256"]) != recorded["sha256"]:
        raise UserError("corrupt file", where=str(path), expected=f"sha256 {recorded['sha256'][:16]}",
                        found=f"sha256 {found[:16]}", way_out=f"copy it again, or {_REMAKE}")


def _write_json(path: pathlib.Path, value, indent=1) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n")


def _read_json(path: pathlib.Path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError("unreadable file of a dataset", where=str(path), found=str(error), way_out=_REMAKE) from error
