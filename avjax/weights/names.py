"""Moving arrays along a name table, in both directions; and what differs between the arrays of a
file and those that a network has: all of it, in one line.

A row is (published names, our path "a/b/c", (to ours, to theirs), layer). Several published arrays
may make one of ours, side by side on axis 1; with a layer, ours is stacked along a leading layer
axis.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from avjax.errors import UserError
from avjax.weights.fold import put

PREFIXED = "check which model the file is of; names with a prefix are read by --select=PREFIX"

Shape = tuple[int | None, ...]  # None: any length
Row = tuple[tuple[str, ...], str, tuple, int | None]
_NUMBER = re.compile(r"(?<![^./_])\d+(?=[./_]|$)")  # of a layer


def gather(state: Mapping[str, np.ndarray], rows: Iterable[Row]) -> dict:
    """A state dict -> our parameters. Unlike (a UserError) lists every entry that is missing, left
    over, that does not fit, or that differs from its other layers."""
    params = {}
    left = {name: np.asarray(value) for name, value in state.items()}
    stacked: dict[str, list] = {}
    missing, unfit = [], []
    for names, ours, (to_ours, _), layer in rows:
        missing += [name for name in names if name not in left]
        theirs = {name: left.pop(name) for name in names if name in left}
        parts = []
        for name, value in theirs.items():
            try:
                parts.append(to_ours(value))
            except ValueError:
                unfit.append(f"{name} {value.shape}")
        if len(parts) < len(names):
            continue
        value = np.ascontiguousarray(np.stack(parts, axis=1) if len(parts) > 1 else parts[0])
        if layer is None:
            put(params, ours, value)
        else:
            stacked.setdefault(ours, []).append((theirs, value))
    shapes = {}
    for layers in stacked.values():
        shapes |= _odd_ones(layers)
    if missing or left or unfit or shapes:
        raise Unlike("the checkpoint's entries are not the network's", missing=missing, extra=left,
                     unfit=unfit, shapes=shapes, hint="check that the config is this checkpoint's: "
                     "kind, number of layers, width, heads")
    for ours, layers in stacked.items():
        put(params, ours, np.stack([value for _, value in layers]))
    return params


def _odd_ones(layers: list[tuple[Mapping[str, np.ndarray], np.ndarray]]) -> dict:
    """{published name: (shape of most layers, its own)} of layers that differ from the others."""
    most = Counter(value.shape for _, value in layers).most_common(1)[0][0]
    like = next(theirs for theirs, value in layers if value.shape == most)
    return {name: (wanted.shape, array.shape) for theirs, value in layers if value.shape != most
            for (name, array), wanted in zip(theirs.items(), like.values(), strict=True)
            if array.shape != wanted.shape}


def scatter(params, rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """Our parameters -> a state dict; the inverse of `gather`, bit for bit."""
    out = {}
    for names, ours, (_, to_theirs), layer in rows:
        value = params
        for part in ours.split("/"):
            value = value[part]
        value = np.asarray(value) if layer is None else np.asarray(value)[layer]
        parts = [value] if len(names) == 1 else [value[:, i] for i in range(len(names))]
        for name, part in zip(names, parts, strict=True):
            out[name] = np.ascontiguousarray(to_theirs(part))
    return out


class Unlike(UserError):
    """Weights whose arrays are not those of the network; lists each, names that differ in a layer's
    number only as one.

    Attributes:
      missing, extra: names.
      shapes: {name: (shape of the network's, shape found)}.

    `unfit` are told beside those: names whose arrays cannot be brought into the network's layout.
    """

    def __init__(self, what: str, *, where: str = "", missing: Iterable[str] = (),
                 extra: Iterable[str] = (),
                 shapes: Mapping[str, tuple[Shape, Shape]] | None = None,
                 unfit: Iterable[str] = (), hint: str = ""):
        self.missing, self.extra, self.shapes = tuple(missing), tuple(extra), dict(shapes or {})
        found = [f"{kind}: {', '.join(together(names))}"
                 for kind, names in (("missing", self.missing), ("left over", self.extra),
                                     ("does not fit", tuple(unfit))) if names]
        alike: dict[tuple, list[str]] = {}
        for name, pair in sorted(self.shapes.items()):
            alike.setdefault(pair, []).append(name)
        found += ["of another shape: " + ", ".join(
            f"{', '.join(together(names))} {had} instead of {_text(wanted)}"
            for (wanted, had), names in alike.items())] if alike else []
        super().__init__(what, where=where, found=" | ".join(found), hint=hint)
        self._what, self._where = what, where

    def with_shapes(self, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray],
                    where: str) -> "Unlike":
        """The same of a file, with the shapes of all arrays `found` that differ from those `wanted`
        of the same name; behind a wrapper's name, too."""
        theirs = {name if name in wanted else name.partition(".")[2]: np.shape(x)
                  for name, x in found.items()}
        shapes = {name: (wanted[name].shape, shape) for name, shape in theirs.items()
                  if name in wanted and wanted[name].shape != shape}
        return Unlike(self._what, where=where, missing=self.missing, extra=self.extra,
                      shapes=self.shapes | shapes, hint=self.hint)

    def under(self, names: Mapping[str, str]) -> "Unlike":
        """The same with {name: another name}, where that has one."""
        def named(name):
            return names.get(name, name)

        return Unlike(self._what, where=self._where, missing=self.missing,
                      extra=map(named, self.extra), hint=self.hint,
                      shapes={named(name): shapes for name, shapes in self.shapes.items()})

    @property
    def differs(self) -> bool:
        return bool(self.missing or self.extra or self.shapes)


def compare(found: Mapping[str, Shape], expected: Mapping[str, Shape], what: str, *,
            where: str = "", hint: str = "") -> Unlike:
    """All differences, to be raised where it `differs`."""
    shapes = {name: (expected[name], tuple(found[name]))
              for name in expected.keys() & found.keys() if not _fits(found[name], expected[name])}
    return Unlike(what, where=where, missing=sorted(expected.keys() - found.keys()),
                  extra=sorted(found.keys() - expected.keys()), shapes=shapes, hint=hint)


def check_arrays(found: Mapping[str, Shape], expected: Mapping[str, Shape], what: str, *,
                 where: str = "", hint: str = "") -> None:
    """Raises Unlike where anything differs."""
    error = compare(found, expected, what, where=where, hint=hint)
    if error.differs:
        raise error


def together(names: Iterable[str]) -> list[str]:
    """The names, sorted; those that differ in their first number only as one: a.[0-2,5].b."""
    groups: dict[str, list[int]] = {}
    for name in sorted(names):
        match = _NUMBER.search(name)
        key = f"{name[:match.start()]}\0{name[match.end():]}" if match else name
        groups.setdefault(key, []).append(int(match[0]) if match else -1)
    return [key.replace("\0", _ranges(numbers)) for key, numbers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return text if len(numbers) == 1 else f"[{text}]"


def _fits(found: Shape, expected: Shape) -> bool:
    return len(found) == len(expected) and all(e in (None, f)
                                               for f, e in zip(found, expected, strict=True))


def _text(shape: Shape) -> str:
    return f"({', '.join('any' if n is None else str(n) for n in shape)})"
