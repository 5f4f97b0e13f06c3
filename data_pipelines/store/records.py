"""Raw records of ArrayRecord shards by index, with a bounded number of files open in the whole
process.

ArrayRecord's own data source keeps a file open for every shard that it has ever read from.
"""

import bisect
import functools
import itertools
import pathlib
import resource
from collections.abc import Sequence

from array_record.python import array_record_module

_MOST_OPEN = 4096


class Records(Sequence):
    """The records of several shards in a row. Threads may share it; it pickles.

    Args:
      shards: (path, number of records, digest of the contents) of each.
    """

    def __init__(self, shards: Sequence[tuple[pathlib.Path, int, str]]):
        self._shards = [(str(path), count, content) for path, count, content in shards]
        self._ends = list(itertools.accumulate(count for _, count, _ in self._shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def shard_of(self, index: int) -> pathlib.Path:
        """The file that holds a record."""
        return pathlib.Path(self._shards[bisect.bisect_right(self._ends, index)][0])

    def __getitem__(self, index: int) -> bytes:
        number = bisect.bisect_right(self._ends, index)
        path, count, content = self._shards[number]
        position = index - self._ends[number] + count
        try:
            return _readers()(path, count, content).read([position])[0]
        except Exception:
            # a reader that failed once always fails; and files may have run out
            _readers().cache_clear()
            return _readers()(path, count, content).read([position])[0]


@functools.cache
def _readers():
    """The readers that are open, the latest used; one that is dropped closes when the last thread
    is done with it."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 4))
    return functools.lru_cache(maxsize=most)(_open)


def _open(path: str, count: int, content: str):
    """`content` distinguishes a shard from a former one at the same path."""
    reader = array_record_module.ArrayRecordReader(path, options="readahead_buffer_size:0",
                                                   file_reader_buffer_size=32768)
    # array_record 0.8.6 opens a missing file, or any when no more may be open, as one of 0 records:
    # reading tells why.
    if reader.num_records() != count:
        reader.read([0])
        raise ValueError(f"{reader.num_records()} records, {count} expected")
    return reader
