"""What lies in folders already, in place of what a checkpoint generates."""

import types
from collections.abc import Iterable, Mapping

import numpy as np

from avjax.errors import UserError
from avjax.weights.reader import file_sha256
from data_pipelines.ingest.common.recordings import Source
from data_pipelines.store.schema import recipe_hash
from eval.benchmarks.common import base
from eval.benchmarks.named.declaration import Named
from eval.data.matched import Array, Matched


class Benchmark(base.Benchmark):
    """A named benchmark of generated files, a variant a folder.

    Args:
      named: its declaration.
      decoder: what of a decoder the benchmark and the report need.
      dataset: clips, or a Folder of recordings.
      matched: {variant: which files are which examples'}.
      networks: folder of published networks, "" for none.
    """

    has_codes, truth_title = False, "ground truth"
    fields = ("id", "speaker", "text")

    def __init__(self, named: Named, decoder, dataset, matched: Mapping[str, Matched],
                 networks: str = ""):
        self.named, self.matched, self.name = named, matched, named.name
        config = types.SimpleNamespace(
            evaluate=types.SimpleNamespace(tasks=(), seed=0, networks=networks),
            data=types.SimpleNamespace(train_split=""))
        super().__init__(config, decoder, dataset, types.SimpleNamespace(tasks=tuple(matched)))
        self.models = {name: name for name in matched}
        self.wanted = tuple(named.metrics)
        self._digests: dict[Source | Array | None, str] = {}

    def files_of(self, variant: str, split: str, index: int) -> tuple[Source | Array | None, str]:
        """The files of one example, or None and why there are none."""
        found, id = self.matched[variant], self.source(split).ids[index]
        return found.found.get(id), found.lacking.get(id, "")

    def content(self, variant, split, index):
        files = self.files_of(variant, split, index)[0] if variant in self.models else None
        if files and files not in self._digests:
            self._digests[files] = _digest(files.files)
        return self._digests.get(files, "")

    def contents(self, splits: Iterable[str]) -> dict[str, np.ndarray]:
        """A digest of all files: what stands for parameters."""
        all_of = {f"{variant}|{split}|{id}": self.content(variant, split, index)
                  for variant in self.models for split in splits
                  for index, id in enumerate(self.source(split).ids)}
        return {"files": np.frombuffer(bytes.fromhex(recipe_hash(all_of)), np.uint8)}

    def frames(self, split, index, signals):
        return {}

    def _row_recipe(self):
        return super()._row_recipe() | {"protocol": self.named.protocol}


def _digest(files) -> str:
    """SHA-256 of files; "" where one cannot be read, which is said when it is scored."""
    try:
        return recipe_hash({"files": [file_sha256(path) for path in files]})
    except (OSError, UserError):
        return ""


class Made:
    """Stands where a generator stands: what folders hold has been generated already."""

    names: tuple[str, ...] = ()
    seed, system = 0, None
    seconds: Mapping[str, float] = types.MappingProxyType({})  # nothing is computed here

    def __call__(self, params, examples: Iterable, task: str = "", **_):
        """Yields (id, {}): `Benchmark.model` knows the files."""
        for id, _ in examples:
            yield id, {}
