"""Feature shards -> fixed-shape batches with Grain's Dataset API.

A System either trains on random segments of a fixed length, or (System.rows) on whole examples
packed into rows. What it trains on is one split of a dataset, or a mixture of several (mixture.py).

Batch k is a pure function of (seed, k): every position of an endless shuffled stream has its own
random generator for the crop, hosts take consecutive shares of a batch *after* crop and batching
are defined, and threads only prefetch. So the position is one integer, the order does not depend on
hosts or threads, and a run may resume on other hardware.

Splits are the dataset's own (by recording or identity). Nothing here slices after a shuffle: Grain
reshuffles every epoch, so such a slice would leak the other part from epoch two on
(google/grain#1200).
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np

from avjax.errors import UserError
from avjax.systems.api import Rows, Spec, System
from data_pipelines.loading.mixture import Drawn, Interleaving, Part, check_alike
from data_pipelines.loading.packing import PackedRows
from data_pipelines.store.dataset import Dataset
from data_pipelines.store.schema import Feature, recipe_hash

MASK, EXAMPLE = "mask", "example"  # names the loader makes; never read from the dataset
PREFETCH = 16  # batches read ahead
# Rows that a stream pretends to have, endless for all purposes; Grain's own `repeat(None)`
# overflows when the batches of one example are sliced.
ENDLESS = 2**50


class Loader(Iterator):
    """Endless batches; see `make_loader`. Close it (or use `with`) to stop its threads.

    `drawn` says what they hold of each source, `notes` what a reader should know of the sources.
    """

    def __init__(self, batches: grain.MapDataset, threads: int, drawn: Drawn,
                 notes: Sequence[str] = ()):
        self.drawn, self.notes = drawn, tuple(notes)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCH if threads
                                    else 0)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, int]:
        """{"next_index": k}: the next batch will be batch k, on whatever number of hosts."""
        return {"next_index": int(self._iterator.get_state()["next_index"])}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues at batch `state["next_index"]`, without reading those before it."""
        self._iterator.set_state({**self._iterator.get_state(),
                                  "next_index": int(state["next_index"])})

    def close(self) -> None:
        """Stops the reader threads."""
        self._iterator.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def make_loader(dataset: Dataset, split: str, system: System, **how) -> Loader:
    """The loader of one split of a dataset; see `make_mixed_loader`."""
    return make_mixed_loader([Part(dataset, split)], system, **how)


def make_mixed_loader(parts: Sequence[Part], system: System, *, batch_size: int, segment: int,
                      seed: int, host: int = 0, num_hosts: int = 1, threads: int = 2) -> Loader:
    """Shuffled, endless training batches.

    Args:
      parts: where examples come from. A weight is a share of the rows of a batch; every source is
        shuffled and repeated by itself, so that a small one is seen more often.
      system: whose `example_spec` names the features to read, and whose `rows`, if any, packs them.
      batch_size: rows a step over all hosts.
      segment: frames of a random crop, where the system has no `rows`. Shorter examples are padded
        at the end by repeating their last frame, with mask 0.
      seed: of order and crops.
      host, num_hosts: this process and how many there are; host h gets examples [h*b, (h+1)*b) of
        every batch.
      threads: reader threads (0 reads in the caller).

    Returns:
      An iterator over {name: array of this host's share} plus "example" (b,) uint32, the CRC-32 of
      the ids; with `get_state`, `set_state` and `close`.

    Raises:
      UserError: at once for anything that does not fit; from `next` for a corrupt record.
    """
    if num_hosts < 1 or not 0 <= host < num_hosts:
        raise UserError("no such host", where="loader", expected=f"0 <= host < {num_hosts}",
                        found=str(host))
    if batch_size < 1 or batch_size % num_hosts:
        raise UserError("batch does not divide", where="config.data.batch_size",
                        expected=f"a positive multiple of the {num_hosts} hosts",
                        found=str(batch_size),
                        hint=f"use {max(1, round(batch_size / num_hosts)) * num_hosts}")
    if segment < 1:
        raise UserError("segment too short", where="config.data.segment", expected=">= 1 frame",
                        found=str(segment))
    views = [_view(part, system) for part in parts]
    for part, rows in zip(parts, views, strict=True):
        names = check_features(part.dataset, system.example_spec,
                               one_speaker=rows is not None and rows.one_speaker)
    notes = check_alike(parts, names)
    make = _crops if system.rows is None else _packed
    streams = [make(part, names, rows, system, segment, _seed_of(seed, i))
               for i, (part, rows) in enumerate(zip(parts, views, strict=True))]
    order = Interleaving([part.weight for part in parts], ENDLESS)
    drawn = Drawn(tuple(parts), batch_size, order, tuple(stream.count for stream in streams),
                  tuple(stream.size for stream in streams))
    # one source keeps the order that it had before there were mixtures
    stream = streams[0].rows if len(streams) == 1 else grain.MapDataset.select_from_datasets(
        [stream.rows for stream in streams], order)
    batches = stream.batch(batch_size // num_hosts)[host::num_hosts]
    return Loader(batches, threads, drawn, notes)


class _Stream(NamedTuple):
    """The endless rows of one source; how many examples its first n rows hold, and an epoch."""

    rows: grain.MapDataset
    count: Callable[[int], int]
    size: int


def _seed_of(seed: int, source: int) -> int:
    """Of one source's order and crops: two sources of one size must not march in step."""
    if not source:
        return seed
    return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])


def _view(part: Part, system: System) -> Rows | None:
    """How the system lays out a source's examples."""
    if not part.view:
        return system.rows
    known = system.rows.views if system.rows else ()
    if part.view not in known:
        raise UserError("unknown view", where=f"config.data.mixture, {part.dataset.dir}",
                        expected=" or ".join(known) or "none: this system sees examples one way",
                        found=repr(part.view))
    return system.rows.view(part.view)


def _packed(part: Part, names, rows: Rows, system: System, segment: int, seed: int) -> _Stream:
    dataset = part.dataset
    packed = PackedRows(dataset.source(part.split, ("id", *names), lazy=True),
                        dataset.lengths(part.split, sorted(_sequences(dataset, names))), rows, seed,
                        str(dataset.dir))
    return _Stream(grain.MapDataset.source(packed), packed.examples_before, packed.epoch_size)


def _crops(part: Part, names, rows: None, system: System, segment: int, seed: int) -> _Stream:
    dataset = part.dataset
    source = dataset.source(part.split, ("id", *names), lazy=True)
    sequences = _sequences(dataset, names)
    _check_one_clock(dataset, names)
    with_mask = MASK in system.batch_spec

    def crop(example: dict, rng: np.random.Generator) -> dict:
        length = _length(example, sequences, dataset)
        start = int(rng.integers(max(length - segment, 0) + 1))
        example_id = zlib.crc32(example.pop("id").encode())
        example = {n: _fit(v[start:start + segment], segment) if n in sequences else v for n,
                   v in example.items()}
        if with_mask:
            example[MASK] = (np.arange(segment) < length).astype(np.float32)
        return example | {EXAMPLE: np.uint32(example_id)}

    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat(ENDLESS // len(source))
    return _Stream(stream.random_map(crop), int, len(source))


def check_features(dataset: Dataset, example_spec: Mapping[str, Spec], *,
                   one_speaker: bool = False) -> tuple[str, ...]:
    """The features of `example_spec` to read; UserError unless names, shapes, dtypes, rates and
    recipes all agree. `one_speaker`: there may be one where the system has several."""
    names, where = tuple(example_spec), str(dataset.dir)
    for name in names:
        spec, feature = example_spec[name], dataset.features.get(name)
        if feature is None:
            raise UserError(f"the model needs feature {name!r}", where=where,
                            expected=f"{spec.meaning} {spec.shape}",
                            found=f"features {', '.join(dataset.features)}",
                            hint="extract the dataset with it, or switch it off in config.system")
        shape = tuple(None if isinstance(d, str) else d for d in spec.shape[1:])
        if shape != feature.shape and not (one_speaker and feature.shape == _alone(spec, shape)):
            alone = "" if feature.shape != _alone(spec, shape) else (
                ", or, of one speaker in a mixture, name which one that is (docs/data.md)")
            raise UserError(f"width of {name!r} differs", where=where,
                            expected=f"{shape} (config.system)",
                            found=f"{feature.shape} (dataset)",
                            hint=f"set the model's size of {name!r} to the dataset's, or extract "
                            f"it again{alone}")
        if np.dtype(spec.dtype) != feature.dtype:
            raise UserError(f"dtype of {name!r} differs", where=where, expected=spec.dtype,
                            found=feature.dtype,
                            hint="extract the dataset again")
        if spec.rate is not None and None in shape and (
                feature.rate is None or abs(spec.rate - feature.rate) > 1e-6 * spec.rate):
            raise UserError(f"frame rate of {name!r} differs", where=where,
                            expected=f"{spec.rate} Hz", found=f"{feature.rate} Hz",
                            hint="extract the dataset at the model's rate")
        _check_recipe(name, spec.recipe, dataset.recipes.get(name), where)
    return names


def _alone(spec: Spec, shape: tuple) -> tuple:
    """The shape of a feature of one speaker."""
    return tuple(1 if axis == spec.speaker_axis else size for axis, size in enumerate(shape, 1))


def _check_one_clock(dataset: Dataset, names: Iterable[str]) -> None:
    """A crop takes the same frames of every stream."""
    rates = {n: dataset.features[n].rate for n in _sequences(dataset, names)}
    if len(set(rates.values())) > 1:
        raise UserError("streams have different time axes", where=str(dataset.dir),
                        expected="one frame rate", found=str(rates),
                        hint="train on extracted features (avjax extract), not on clips")


def check_recipes(dataset: Dataset, trained_on: Mapping[str, dict], names: Iterable[str],
                  model) -> None:
    """UserError unless the features are made as those that `model` (a path, for the message) was
    trained on."""
    for name in names:
        _check_recipe(name, trained_on.get(name), dataset.recipes.get(name),
                      f"{dataset.dir} and {model}")


def _check_recipe(name: str, expected: dict | None, found: dict | None, where: str) -> None:
    if expected is None or (found is not None and recipe_hash(expected) == recipe_hash(found)):
        return
    rate = (found or {}).get("native_rate")
    if rate and not expected.get("native_rate"):
        raise UserError(f"{name!r} of telephone sound is not for a model that makes sound",
                        where=where, expected="sound recorded at 16000 Hz or more",
                        found=f"{rate} Hz", hint="train what reads text and units on it")
    differing = [k for k in sorted({*expected, *(found or {})})
                 if expected.get(k) != (found or {}).get(k)]

    def show(recipe):
        if recipe is None:
            return "no recipe"
        return recipe_hash(recipe) + " " + ", ".join(f"{k}={str(recipe.get(k))[:40]}"
                                                     for k in differing[:6])

    raise UserError(f"recipe of {name!r} differs", where=where, expected=show(expected),
                    found=show(found), hint="extract the dataset with the model's recipe, or train "
                                            "a model for this one")


def _sequences(dataset: Dataset, names: Iterable[str]) -> frozenset[str]:
    return frozenset(n for n in names if _is_sequence(dataset.features[n]))


def _is_sequence(feature: Feature) -> bool:
    return bool(feature.shape) and feature.shape[0] is None


def _length(example: dict, sequences: frozenset[str], dataset: Dataset) -> int:
    lengths = {n: len(example[n]) for n in sequences}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise UserError("streams of an example differ in length",
                        where=f"{dataset.dir}, example {example['id']!r}",
                        expected="the same number of frames, at least 1", found=str(lengths),
                        hint="extract the dataset again")
    return next(iter(lengths.values()), 0)


def _fit(x: np.ndarray, frames: int) -> np.ndarray:
    """Pads the time axis at the end by repeating the last frame."""
    missing = frames - len(x)
    return x if missing <= 0 else np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
