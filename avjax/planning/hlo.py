"""Reads a compiled XLA program's text: instructions, and how often a step executes each (trip
counts of the loops around it)."""

import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
        "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^{}]*\})?")
_HEAD = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*(?:\(.*)?\{\s*$")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
_CALLED = {"while": ("body", "condition"), "call": ("to_apply",),
           "conditional": ("true_computation", "false_computation"), "async-start": ("calls",)}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape; `fast`: it is in a TPU core's own memory (VMEM), not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * BITS.get(self.dtype, 32 if self.dtype != "token" else 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    results: tuple[Array, ...]  # the arrays of its shape, in order
    operands: tuple[str, ...]
    # everything after the operands; of constants and parameters, from their value or number on
    rest: str

    def attribute(self, name: str) -> str | None:
        """Of `name=%value` or `name=value`."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found.group(1) if found else None


@dataclasses.dataclass
class Module:
    computations: dict[str, list[Instruction]]
    entry: str

    def executed(self) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
        """(instruction, times a step executes it, the instructions beside it by name), without the
        insides of fusions. Of a conditional the first branch is walked with the rest of them: all
        count."""
        yield from self._walk(self.entry, 1)

    def _walk(self, computation: str, times: int):
        body = self.computations.get(computation, [])
        beside = {instruction.name: instruction for instruction in body}
        for instruction in body:
            yield instruction, times, beside
            trips = self.trips(instruction, beside) if instruction.opcode == "while" else 1
            for called in self._called(instruction):
                yield from self._walk(called, times * trips)

    def _called(self, instruction: Instruction) -> list[str]:
        names = [instruction.attribute(a) for a in _CALLED.get(instruction.opcode, ())]
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
        if branches and instruction.opcode == "conditional":
            names += [part.strip().lstrip("%") for part in branches.group(1).split(",")]
        return [name for name in names if name]

    def trips(self, loop: Instruction, beside: dict[str, Instruction]) -> int:
        """The trip count of a while loop: XLA's own note, else from its counter's first value (a
        peeled loop starts at 1), step (2 in an unrolled one) and bound; 1 where these are not
        constants."""
        known = _TRIPS.search(loop.rest)
        if known:
            return int(known.group(1))
        condition = {i.name: i for i in self.computations.get(loop.attribute("condition") or "",
                                                              [])}
        compare = next((i for i in condition.values() if "direction=LT" in i.rest), None)
        if compare is None:  # the comparison is fused: its operands are the fusion's
            compare = next((i for i in condition.values() if i.opcode == "fusion" and any(
                "direction=LT" in inner.rest
                for inner in self.computations.get(i.attribute("calls") or "", []))), None)
        operands = [condition[name] for name in (compare.operands if compare else ())
                    if name in condition]
        bound = next((n for i in operands if (n := constant(i)) is not None), None)
        counter = next((i for i in operands if i.opcode == "get-tuple-element"), None)
        if bound is None or counter is None:
            return 1
        place = int(counter.attribute("index") or 0)
        first = _constant_at(beside.get(loop.operands[0]), place, beside) or 0
        body = {i.name: i for i in self.computations.get(loop.attribute("body") or "", [])}
        root = next(reversed(body.values()), None)
        update = None
        if root is not None and len(root.operands) > place:
            update = body.get(root.operands[place])
        addends = update.operands if update is not None and update.opcode == "add" else ()
        step = next((n for name in addends
                     if name in body and (n := constant(body[name])) is not None), 1)
        return max(-(-(bound - first) // max(step, 1)), 0)


def _constant_at(start: Instruction | None, place: int,
                 beside: dict[str, Instruction]) -> int | None:
    """The constant at a place of a tuple, through copies."""
    found = (beside.get(start.operands[place]) if start is not None and place < len(start.operands)
             else None)
    while found is not None and found.opcode == "copy":
        found = beside.get(found.operands[0])
    return constant(found) if found is not None else None


def constant(instruction: Instruction) -> int | None:
    """The value of an integer scalar constant."""
    is_scalar = instruction.results and not instruction.results[0].dims
    if instruction.opcode != "constant" or not is_scalar:
        return None
    found = re.match(r"\s*(-?\d+)\)", instruction.rest)
    return int(found.group(1)) if found else None


def parse(text: str, *, vmem: bool = True) -> Module:
    """The module of `compiled.as_text()`. vmem: memory space 1 is a core's own, as on TPUs."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in _whole_lines(text):
        if not line.startswith(" "):
            head = _COMPUTATION.match(line)
            current = None
            if head and " = " not in line.split("(")[0]:
                current = computations.setdefault(head.group(2), [])
                entry = head.group(2) if head.group(1) else entry
        elif current is not None and (instruction := _instruction(line, vmem)):
            current.append(instruction)
    return Module(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
    """Lines, with those joined to the one before that go on with an instruction: the metadata of a
    Pallas kernel has line ends, and a closing brace where a computation would close."""
    waiting, inside = "", False
    for line in text.splitlines():
        goes_on = inside and line != "}" and not _HEAD.match(line)
        if goes_on:
            waiting += " " + line
            continue
        if waiting:
            yield waiting
        waiting = line
        inside = line.startswith(" ") or bool(_COMPUTATION.match(line))
    yield waiting


def _instruction(line: str, vmem: bool) -> Instruction | None:
    head = _HEAD.match(line)
    if head is None:
        return None
    name, text = head.groups()
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    shape, text = text[:end], text[end:].lstrip()
    opened = text.find("(")
    if opened < 0:
        return None
    closed = _closing(text, opened)
    opcode = text[:opened]
    inside = text[opened + 1:closed]
    rest = text[opened + 1:] if opcode in ("constant", "parameter") else text[closed + 1:]
    return Instruction(name, opcode, arrays(shape, vmem), tuple(re.findall(r"%([\w.\-]+)", inside))
                       or _plain(inside), rest)


def _plain(inside: str) -> tuple[str, ...]:
    """Operands that are written without %."""
    return tuple(part for part in (p.strip().split(" ")[-1]
                                   for p in re.sub(r"/\*.*?\*/", "", inside).split(","))
                 if re.fullmatch(r"[A-Za-z_][\w.\-]*", part))


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text) - 1


def arrays(shape: str, vmem: bool = True) -> tuple[Array, ...]:
    """The arrays named in a shape's text, nested tuples flattened; vmem: see `parse`."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        found.append(Array(dtype, tuple(int(d) for d in dims.split(",") if d),
                           vmem and "S(1)" in layout))
    return tuple(found)
