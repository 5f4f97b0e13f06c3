"""How fast a compiled step could run: the time of arithmetic, memory and links at full rates, from
the program's text.

Two bounds and an estimate. `floor`: everything overlaps and the slowest part decides; no run is
faster, but for what a GPU's kernels find in its L2 cache: every operand and result of a kernel
counts as read from or written to memory. `serial`: no communication overlaps. `compiler`: XLA:TPU's
own estimate of cycles, instruction by instruction, plus the communication that it does not overlap;
the one to expect. None of them includes input, host or stragglers.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from avjax.planning.collectives import CYCLES, Collective
from avjax.planning.hlo import Array, Instruction, Module
from avjax.planning.topologies import Chip, Topology

NO_TRAFFIC = frozenset({"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while",
                        "call", "conditional", "after-all", "partition-id", "replica-id",
                        "opt-barrier", "iota", "async-start", "async-update"})
SLICING = frozenset({"dynamic-slice", "slice", "gather"})
VIEWS = frozenset({"bitcast", "reshape"})


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds a step, by part.

    Attributes:
      overlapped: the part of ici beside arithmetic.
      cycles: XLA's estimate in seconds, without communication; 0 = none.
      flops: of the whole step.
      peak: FLOP/s of all devices.
      useful: the share of flops that the model needs; the rest is recomputation by remat.
    """

    compute: float
    hbm: float
    ici: float
    dcn: float
    overlapped: float
    cycles: float
    flops: float
    peak: float
    useful: Callable[[], float] = lambda: 1.0

    @property
    def floor(self) -> float:
        return max(self.compute, self.hbm, self.ici, self.dcn)

    @property
    def serial(self) -> float:
        return max(self.compute, self.hbm) + self.ici + self.dcn

    @property
    def compiler(self) -> float:
        """XLA's estimate; `serial` where it makes none."""
        return self.cycles + self.ici - self.overlapped + self.dcn if self.cycles else self.serial

    @property
    def bound(self) -> str:
        """Which part is the floor."""
        return max(("compute", "hbm", "ici", "dcn"), key=lambda part: getattr(self, part))

    def mfu(self, seconds: float) -> float:
        """The share of the peak at that step time, by the model's FLOPs, as the loop logs it:
        recomputation by remat takes time but is not counted."""
        return self.flops * self.useful() / seconds / self.peak if seconds else 0.0


def make(flops: float, topology: Topology, collectives: Sequence[Collective], *, hbm_bytes: float,
         cycles: int = 0, useful: Callable[[], float] = lambda: 1.0) -> Roofline:
    """From FLOPs of a whole step, the bytes that one device reads and writes, and its collectives;
    `useful`: see Roofline."""
    chip = topology.chip
    times = [(c, c.seconds(topology)) for c in collectives]
    return Roofline(compute=flops / topology.devices / chip.flops, hbm=hbm_bytes / chip.hbm_rate,
                    ici=sum(s for c, s in times if not c.dcn),
                    dcn=sum(s for c, s in times if c.dcn),
                    overlapped=sum(c.hidden(topology) for c in collectives if not c.dcn),
                    cycles=seconds_of(cycles, chip), flops=flops,
                    peak=chip.flops * topology.devices, useful=useful)


def seconds_of(cycles: int, chip: Chip) -> float:
    return cycles / chip.cycles if chip.cycles else 0.0


def cycles(module: Module) -> int:
    """XLA:TPU's estimate for all instructions of a step, times the trip counts of their loops; 0
    from other compilers."""
    return sum(times * int(found.group(1)) for one, times, _ in module.executed()
               if (found := CYCLES.search(one.rest)))


def hbm_bytes(module: Module) -> int:
    """Bytes that a step reads from and writes to a device's memory: operands and results of what is
    executed, except in a core's own memory. Of an operand that is only sliced, the slices count; of
    one updated in place, the update."""
    return sum(times * _traffic(one, beside, module) for one, times, beside in module.executed())


def _slow(arrays: Sequence[Array]) -> int:
    return sum(a.bytes for a in arrays if not a.fast)


def _traffic(one: Instruction, beside: dict[str, Instruction], module: Module) -> int:
    if one.opcode in NO_TRAFFIC or one.opcode.endswith("-done"):
        return 0
    operands = [beside[name].results for name in one.operands if name in beside]
    if one.opcode in ("copy-start", "slice-start"):  # results: where to, where from, bookkeeping
        arrays = [a for a in one.results if a.dims]
        moved = min((a.bytes for a in arrays), default=0)
        return moved * sum(not a.fast for a in arrays[:2])
    if one.opcode in SLICING:
        return 2 * _slow(one.results)
    if one.opcode == "dynamic-update-slice":
        return 2 * _slow(operands[1]) if len(operands) > 1 else 0
    if one.opcode == "fusion":
        return _fusion(one, operands, module.computations.get(one.attribute("calls") or "", []))
    results = one.results
    if one.opcode == "custom-call":  # of a library: its workspace is bytes
        results = tuple(a for a in results if a.dtype not in ("s8", "u8"))
    elif one.opcode.endswith("-start"):  # a collective's results begin with its operands
        results = results[len(operands):] or results
    return _slow(results) + sum(map(_slow, operands))


def _fusion(one: Instruction, operands: Sequence[Sequence[Array]],
            body: Sequence[Instruction]) -> int:
    """A fusion reads each parameter once, or the slices that it takes of it, and writes its
    results, or the updates of them."""
    users: dict[str, list[Instruction]] = {}
    for inner in body:
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    by_name = {inner.name: inner for inner in body}
    read, updated = 0, 0
    for inner in body:
        if inner.opcode != "parameter":
            continue
        number = re.match(r"\d+", inner.rest)
        place = int(number.group()) if number else None
        arrays = operands[place] if place is not None and place < len(operands) else inner.results
        taken = _taken(inner, users, by_name)
        if taken is None:
            read += _slow(arrays)
        elif _slow(arrays):
            read += taken[0]
            updated += taken[1]
    written = _slow(one.results)
    in_place = [i for i in body if i.opcode == "dynamic-update-slice" and updated]
    for inner in in_place:
        written -= min(written, inner.results[0].bytes)
    return read + max(written, 0) + updated


def _taken(parameter: Instruction, users: dict, by_name: dict) -> tuple[int, int] | None:
    """(bytes of the slices taken of a parameter, bytes of updates to it); None where all of it is
    read."""
    waiting, sliced, updated = [parameter.name], 0, 0
    while waiting:
        name = waiting.pop()
        for user in users.get(name, ()):
            if user.opcode in VIEWS:
                waiting.append(user.name)
            elif user.opcode in SLICING and user.operands[0] == name:
                sliced += sum(a.bytes for a in user.results)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                update = by_name.get(user.operands[1])
                updated += sum(a.bytes for a in update.results) if update else 0
            else:
                return None
    return sliced, updated
