"""Examples -> ArrayRecord shards, one after the other, each noted by the job (resume.py) once it
is whole."""

import contextlib
import json
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from avjax.errors import UserError
from avjax.storage import failures
from data_pipelines.store import frames
from data_pipelines.store.merge import files
from data_pipelines.store.resume import Partial
from data_pipelines.store.schema import MENDED, Feature

_RECORD_OPTIONS = "group_size:1,uncompressed"
_SUFFIX = "array_record"


class Unusable(UserError):
    """An example that is to be left out; `reason` in few words, `id` where known. See
    `write_dataset(max_bad=)`."""

    def __init__(self, reason: str, *, id: str = "", **details):
        self.reason, self.id = reason, id
        super().__init__(reason, **details)

    def of(self, id: str) -> "Unusable":
        """Itself, with the id."""
        self.id = id
        return self


Item = dict | Callable[[], dict | Iterable[dict | Unusable]]


def connector(features: dict[str, Feature]) -> tfds.features.FeaturesDict:
    """TFDS's description of the columns that records hold; it serializes and parses examples."""
    return tfds.features.FeaturesDict({
        n: tfds.features.Text() if f.dtype == "str" else
        tfds.features.Tensor(shape=f.shape, dtype=np.dtype(f.dtype),
                             encoding=tfds.features.Encoding.BYTES)
        for n, f in features.items() if not f.apart})


class SplitWriter:
    """Writes items to shards of `job.data`, and has the job note every shard that is finished.

    `ids` {split: ids}, `lengths` {"split.feature": lengths}, `refused` [{split, id, reason,
    detail}], `mended` {defect: number of examples}, all of finished shards.
    """

    def __init__(self, job: Partial, name: str, features: dict[str, Feature], max_bad: float,
                 shard_bytes: int,
                 shard_seconds: float):
        self._job, self._name, self._features, self.connector = job, name, features, connector(
            features)
        self._max_bad = max_bad
        self._shard_bytes = shard_bytes
        self._shard_seconds = shard_seconds
        self._seen = set()
        self._apart = {n: f for n, f in features.items() if f.apart}
        self._sequences = [n for n, f in features.items() if f.shape[:1] == (None,)]
        self.ids, self.lengths, self.refused, self.mended = {}, {}, [], Counter()

    def write(self, split: str, items: Iterable[Item]) -> None:
        """The items of a split, after those that an interrupted job has finished."""
        self.ids[split] = []
        self.lengths |= {f"{split}.{n}": [] for n in self._sequences}
        for record in self._job.records(split):
            self._count(split, record)
        position = max((r["position"] for r in self._job.records(split)), default=0)
        items = self._job.part.of(list(items)) if self._job.part else items
        shard, items = self._open(split), iter(items)
        for _ in range(position):
            next(items, None)
        try:
            for item in items:
                for example in self._made(item):
                    if isinstance(example, Unusable):
                        failures.check(example)  # what could not be read is not unusable
                        shard.refused.append({"split": split, "id": example.id,
                                              "reason": example.reason,
                                              "detail": str(example)})
                        continue
                    _check_example(example, self._features, split, self._seen)
                    held = {n: example[n] for n in example if n not in self._apart}
                    shard.add(example["id"], {n: len(example[n]) for n in self._sequences},
                              self.connector._example_serializer.serialize_example(
                                  self.connector.encode_example(held)))
                    shard.beside.add(example)
                    if MENDED in self._features:
                        shard.mended.update(json.loads(example[MENDED]))
                position += 1
                old = self._job.resumable and shard.age >= self._shard_seconds
                if shard.size >= self._shard_bytes or old:
                    self._commit(split, shard, position)
                    shard = self._open(split)
        except BaseException:
            shard.drop()
            raise
        if shard.ids or shard.refused:
            self._commit(split, shard, position)
        if not self.ids[split] and not self._job.part:
            reasons = Counter(r["reason"] for r in self.refused
                              if r["split"] == split).most_common()
            raise UserError("empty split", where=split, expected="at least one example",
                            found=", ".join(f"{n} x {reason}" for reason, n in reasons) or "none",
                            hint="give it examples or leave it out")

    def join(self, split: str) -> None:
        """Makes one shard of small neighbours: a job that can be continued closes one a minute, and
        readers want few files."""
        group: list[dict] = []
        for record in [*self._job.records(split), None]:
            small = record and record["file"] and record["num_bytes"] < self._shard_bytes / 4
            if small and sum(r["num_bytes"]
                             for r in group) + record["num_bytes"] <= self._shard_bytes:
                group.append(record)
                continue
            if len(group) > 1:
                self._join(split, group)
            group = [record] if small else []

    def _join(self, split: str, records: list[dict]) -> None:
        shard = _Shard(self._job.data / (records[0]["file"] + "+"), self._apart)
        try:
            for record in records:
                reader = array_record_module.ArrayRecordReader(str(self._job.data / record["file"]))
                for row in zip(record["ids"], record["lengths"], reader.read_all(), strict=True):
                    shard.add(*row)
                reader.close()
                shard.beside.take(self._job.data / record["file"])
            sizes = shard.close()
        except BaseException:
            shard.drop()
            raise
        self._job.join(records, {"split": split, "position": records[-1]["position"],
                                 "file": shard.path.name, "ids": shard.ids, "num_bytes": shard.size,
                                 "lengths": shard.lengths, "beside": sizes,
                                 "refused": [r for record in records for r in record["refused"]],
                                 "mended": dict(sum((Counter(r.get("mended", {}))
                                                     for r in records), Counter()))})

    def close(self, split: str) -> tfds.core.SplitInfo:
        """Gives the shards their final names, which contain their number."""
        records = [r for r in self._job.records(split) if r["file"]]
        template = tfds.core.ShardedFileTemplate(data_dir=self._job.data, dataset_name=self._name,
                                                 split=split, filetype_suffix=_SUFFIX)
        names = [template.sharded_filepath(shard_index=i, num_shards=len(records)).name
                 for i in range(len(records))]
        self._job.rename({old: new for r, name in zip(records, names, strict=True)
                          for old, new in zip(files(r), files(r, name), strict=True)})
        return tfds.core.SplitInfo(name=split, shard_lengths=[len(r["ids"]) for r in records],
                                   num_bytes=sum(r["num_bytes"] for r in records),
                                   filename_template=template)

    def tell_refused(self) -> None:
        """Writes the quarantine file beside the dataset; none if nothing was left out. Raises
        UserError: more than max_bad."""
        out = self._job.out_dir
        path = out.with_name(f"{out.name}.quarantine.jsonl")
        total = sum(map(len, self.ids.values())) + len(self.refused)
        path.unlink(missing_ok=True)
        if not self.refused:
            return
        counts = Counter(r["reason"] for r in self.refused).most_common()
        reasons = ", ".join(f"{n} x {reason}" for reason, n in counts)
        path.write_text("".join(json.dumps(r) + "\n" for r in self.refused))
        print(f"left out {len(self.refused)} of {total}: {reasons} ({path})", file=sys.stderr,
              flush=True)
        if len(self.refused) > self._max_bad * total:
            self._job.keep = True
            raise UserError("too many unusable examples", where=str(path),
                            expected=f"at most {self._max_bad:.0%}",
                            found=f"{len(self.refused)} of {total}: {reasons}",
                            hint="mend the clips, or raise --max_bad")

    def _made(self, item: Item) -> Iterator[dict | Unusable]:
        """What an item makes, one after the other: all of a long recording would not fit into
        memory."""
        try:
            made = item if isinstance(item, dict) else item()
            for example in [made] if isinstance(made, dict) else made:
                yield self._allowed(example)
        except Unusable as error:
            yield self._allowed(error)
        except UserError:
            self._keep_finished()
            raise

    def _allowed(self, example: dict | Unusable) -> dict | Unusable:
        """Raises what is unusable where nothing may be."""
        if isinstance(example, Unusable) and not self._max_bad:
            self._keep_finished()
            raise example
        return example

    def _keep_finished(self) -> None:
        """An item that cannot be used need not cost the others: the same job goes on once --max_bad
        allows it."""
        self._job.keep |= any(self.ids.values())

    def _open(self, split: str) -> "_Shard":
        index = sum(bool(r["file"]) for r in self._job.records(split))
        return _Shard(self._job.data / f"{split}-{index:05d}.open", self._apart)

    def _commit(self, split: str, shard: "_Shard", position: int) -> None:
        try:
            sizes = shard.close()
        except Exception:
            shard.drop()
            raise
        record = {"split": split, "position": position, "file": shard.path.name if shard.ids
                  else None, "ids": shard.ids, "num_bytes": shard.size, "lengths": shard.lengths,
                  "refused": shard.refused, "mended": dict(shard.mended), "beside": sizes}
        self._job.commit(record)
        self._count(split, record)

    def _count(self, split: str, record: dict) -> None:
        self.ids[split] += record["ids"]
        self.refused += record["refused"]
        self.mended.update(record.get("mended", {}))
        self._seen.update(record["ids"])
        for n in self._sequences:
            self.lengths[f"{split}.{n}"] += [row[n] for row in record["lengths"]]


class _Shard:
    """One ArrayRecord file, opened with its first record, and what is `beside` it."""

    def __init__(self, path: pathlib.Path, apart: dict[str, Feature]):
        self.path, self.ids, self.lengths, self.refused = path, [], [], []
        self.beside = frames.Writer(path, apart)
        self._held = 0
        self._writer, self._born, self.mended = None, time.monotonic(), Counter()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._held + self.beside.size

    @property
    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self._born

    def add(self, id: str, lengths: dict[str, int], record: bytes) -> None:
        if not self._writer:
            self._writer = array_record_module.ArrayRecordWriter(str(self.path), _RECORD_OPTIONS)
        self._writer.write(record)
        self._held += len(record)
        self.ids.append(id)
        self.lengths.append(lengths)

    def close(self) -> dict[str, int]:
        """Bytes of the files beside it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return self.beside.close()

    def drop(self) -> None:
        """Closes and removes an unfinished shard: no restart uses it, and it may be what fills
        the disk."""
        with contextlib.suppress(Exception):
            self.close()
        self.path.unlink(missing_ok=True)
        self.beside.drop()


def _check_example(example: dict, features: dict[str, Feature], split: str, seen: set) -> None:
    where = f"split {split}, example {example.get('id')!r}"
    if example.keys() != features.keys():
        raise UserError("example does not fit the schema", where=where,
                        expected=str(sorted(features)),
                        found=str(sorted(example)))
    if example["id"] in seen:
        raise UserError("id is not unique", where=where, hint="give every example its own id")
    seen.add(example["id"])
    for name, feature in features.items():
        value = example[name]
        if feature.dtype == "str":
            if not isinstance(value, str):
                raise UserError("wrong type", where=f"{where}, {name}", expected="str",
                                found=type(value).__name__)
            continue
        value = np.asarray(value)
        fits = len(value.shape) == len(feature.shape) and all(
            e in (None, s) for e, s in zip(feature.shape, value.shape, strict=True))
        if not fits or value.dtype != np.dtype(feature.dtype):
            raise UserError("array does not fit the schema", where=f"{where}, {name}",
                            expected=f"{feature.dtype} {feature.shape}",
                            found=f"{value.dtype} {value.shape}")
