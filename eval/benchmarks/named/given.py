"""What lies in folders already, in place of what a checkpoint generates."""

import hashlib
import json
import types
from collections.abc import Iterable, Mapping

from eval.benchmarks.common import base
from eval.benchmarks.named.declaration import Named
from eval.data.matched import Array, Matched
from eval.data.recorded import recordings

Of = Mapping[str, Mapping[str, Matched]]  # {variant: {split: what its folder has}}


class Benchmark(base.Benchmark):
    """A named benchmark of generated files, a variant a folder.

    Args:
      named: its declaration.
      decoder: what of a decoder the benchmark and the report need.
      dataset: clips, or a Folder of recordings.
      matched: which files are which examples'.
      networks: folder of published networks, "" for none.
    """

    has_codes = False
    fields = ("id", "speaker", "text")

    def __init__(self, named: Named, decoder, dataset, matched: Of, networks: str = ""):
        self.named, self.matched, self.name = named, matched, named.name
        config = types.SimpleNamespace(
            evaluate=types.SimpleNamespace(tasks=(), seed=0, networks=networks),
            data=types.SimpleNamespace(train_split=""))
        super().__init__(config, decoder, dataset, types.SimpleNamespace(tasks=tuple(matched)))
        self.models = {name: name for name in matched}
        self.wanted = tuple(named.metrics)

    def files_of(self, variant: str, split: str,
                 index: int) -> tuple[recordings.Source | Array | None, str]:
        """The files of one example, or None and why there are none."""
        found, id = self.matched[variant][split], self.source(split).ids[index]
        return found.found.get(id), found.lacking.get(id, "")

    def frames(self, split, index, signals):
        return {}

    def _row_recipe(self):
        return super()._row_recipe() | {"protocol": self.named.protocol}


class Made:
    """Stands where a generator stands: what folders hold has been generated already."""

    names: tuple[str, ...] = ()
    seed = 0

    def __init__(self, contents: Mapping[str, dict]):
        """contents: {variant: {file: digest}}, by which rows are known again."""
        digests = {name: hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()[:16]
                   for name, one in contents.items()}
        self.system = types.SimpleNamespace(config=types.SimpleNamespace(to_dict=lambda: digests))

    def __call__(self, params, examples: Iterable, task: str = "", **_):
        """Yields (id, {}): `Benchmark.model` knows the files."""
        for id, _ in examples:
            yield id, {}
