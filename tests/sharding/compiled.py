"""What a compiled program says of itself: bytes that collectives make and products that a device
computes, from the text of its optimised HLO. Bodies of loops count once."""

import math
import re
from typing import NamedTuple

BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2,
         "u16": 2, "s8": 1, "u8": 1,
         "pred": 1}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
ASSIGNED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")


class Collective(NamedTuple):
    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # (element type, sizes) of its results
    name: str  # where in the network

    @property
    def bytes(self) -> int:
        return sum(BYTES[kind] * math.prod(shape) for kind, shape in self.shapes)


def _shapes(text: str):
    return tuple((kind, tuple(int(n) for n in sizes.split(",") if n)) for kind,
                 sizes in re.findall(r"(\w+)\[([\d,]*)\]", text)
                 if kind in BYTES)


def collectives(text: str) -> list[Collective]:
    found = []
    for line in text.splitlines():
        match = ASSIGNED.match(line)
        if match and re.fullmatch(f"({KINDS})(-start)?", match[3]):
            name = re.search(r'op_name="([^"]*)"', line)
            found.append(Collective(match[3].removesuffix("-start"), _shapes(match[2]),
                                    name[1] if name else ""))
    return found


def products(text: str) -> int:
    """Multiply-adds x 2 of matrix products and convolutions on one device."""
    sizes, total = {}, 0
    for line in text.splitlines():
        match = ASSIGNED.match(line) or re.match(r"^\s*%?([\w.\-]+) = (\S+) (parameter)\((.*)$",
                                                 line)
        if not match:
            continue
        shapes = _shapes(match[2])
        if len(shapes) == 1:
            sizes[match[1]] = shapes[0][1]
    for line in text.splitlines():
        match = ASSIGNED.match(line)
        if not match or match[3] not in ("dot", "convolution"):
            continue
        out = math.prod(_shapes(match[2])[0][1])
        operands = [sizes[name] for name in re.findall(r"%([\w.\-]+)",
                                                       match[4].split("), ")[0])[:2]]
        if match[3] == "dot":
            over = [int(n) for n in re.search(r"lhs_contracting_dims=\{([\d,]*)\}",
                                              line)[1].split(",") if n]
            total += 2 * out * math.prod(operands[0][d] for d in over)
        else:  # output entries x kernel entries an output channel
            labels = re.search(r"dim_labels=\w+_(\w+)->", line)[1]
            total += 2 * out * math.prod(operands[1]) // operands[1][labels.index("o")]
    return total
