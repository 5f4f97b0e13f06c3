"""The collectives of a compiled step: kind, bytes, how often, over which mesh axes, within a slice
or between slices.

They are read from the program's text, so they are what runs. Besides plain instructions XLA:TPU has
collectives in three places: fusions called all-reduce-scatter (a real reduce-scatter), fusions of a
gather and a product (async_collective_fusion: several fusions on one channel, whose transfer
overlaps the arithmetic), and host transfers between slices (send with a megascale attribute).
XLA:GPU writes one operation for cards of several machines, and NCCL splits it.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from avjax.planning.hlo import Instruction, Module
from avjax.planning.topologies import Topology

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
         "collective-permute", "collective-broadcast")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')  # XLA:TPU's, of an instruction
HOP = 1e-6  # seconds from a chip to its neighbour
DCN_HOP = 20e-6  # seconds from a chip to one of another slice, through both hosts


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a step.

    Attributes:
      kind: of KINDS; between slices what the transfer does, e.g. "all-reduce".
      bytes: of the whole value on one device: what is reduced, or the result of a gather.
      group: devices that take part; between slices, slices.
      times: executions a step.
      axes: mesh axes it spans, where they can be told.
      spans: (length, closed to a ring) of the slice's dimensions it spans.
      dcn: between slices.
      together: of a group of GPUs in several machines, how many are in one.
      overlapped: XLA runs arithmetic beside it.
      cycles: of that arithmetic by XLA's estimate, each time; inf = not known, as long as needed.
    """

    kind: str
    bytes: int
    group: int
    times: int = 1
    axes: tuple[str, ...] = ()
    spans: tuple[tuple[int, bool], ...] = ()
    dcn: bool = False
    overlapped: bool = False
    together: int = 1
    cycles: float = math.inf

    @property
    def sent(self) -> float:
        """Bytes that leave a device, each time."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.bytes * factor

    @property
    def across(self) -> float:
        """Bytes that a GPU sends to other machines. NCCL lays as many rings through a group as it
        has cards in a machine, each of which leaves the machine by another card."""
        if "permute" in self.kind:
            return self.bytes
        if "all-to-all" in self.kind:
            return self.bytes * (self.group - self.together) / self.group
        return self.sent / self.together

    def seconds(self, topology: Topology) -> float:
        """Of all its executions, at the links' full rate: rings over every dimension it spans at
        once."""
        chip = topology.chip
        if self.dcn and chip.is_tpu:
            return self.times * (self.sent / chip.dcn_rate + DCN_HOP)
        if self.dcn:
            return self.times * (max(self.across / chip.dcn_rate, self.sent / chip.link_rate)
                                 + DCN_HOP)
        if not chip.is_tpu:
            return self.times * (self.sent / chip.link_rate + HOP)
        if not self.spans:  # the two devices of one chip
            return self.times * self.sent / chip.hbm_rate
        rates = [chip.link_rate * (2 if ring else 1) for _, ring in self.spans]
        hops = sum(length // 2 if ring else length - 1 for length, ring in self.spans)
        if self.kind == "collective-permute":
            spent = self.bytes / chip.link_rate + HOP
        # half of everything crosses the middle of the longest dimension
        elif "all-to-all" in self.kind:
            length, rate = max((length, rate) for (length, _), rate
                               in zip(self.spans, rates, strict=True))
            spent = self.bytes * length / (4 * rate) + hops * HOP
        else:
            spent = self.sent / sum(rates) + hops * HOP * (2 if self.kind == "all-reduce" else 1)
        return self.times * spent

    def hidden(self, topology: Topology) -> float:
        """The part of `seconds` that arithmetic beside it takes as well."""
        spent = self.seconds(topology) if self.overlapped else 0.0
        if math.isinf(self.cycles) or not topology.chip.cycles:
            return spent
        return min(spent, self.times * self.cycles / topology.chip.cycles)


def read(module: Module, mesh, topology: Topology) -> list[Collective]:
    """Every collective of a compiled step. `mesh` is the one it was compiled for (concrete: its
    devices have places)."""
    places = _Places(mesh, topology)
    found, seen = [], set()
    started: dict[str, Instruction] = {}  # what an async-start calls, by name
    arithmetic = _beside(module)
    for instruction, times, beside in module.executed():
        calls = instruction.attribute("calls") or ""
        if instruction.opcode == "async-start":
            started |= {i.name: instruction for i in module.computations.get(calls, [])}
        calls = calls if instruction.opcode == "fusion" else ""
        inside = module.computations.get(calls, [])
        within = {i.name: i for i in inside}
        candidates = [(instruction, beside, ""), *((i, within, calls) for i in inside)]
        for one, around, fusion in candidates:
            kind = one.opcode.removesuffix("-start")
            if kind == "send" and "_xla_megascale_transfer_type" in one.rest:
                found.append(_between_slices(one, times, topology))
            if kind not in KINDS:
                continue
            channel = one.attribute("channel_id")
            if channel is not None and (channel, kind) in seen and fusion:
                continue  # the next part of the same transfer
            seen.add((channel, kind))
            start = started.get(one.name, one)
            overlapped = (bool(fusion) and "async" in fusion or start.opcode.endswith("-start")
                          ) and '"is_sync":true' not in start.rest
            if fusion and "all-reduce-scatter" in fusion:
                kind = "reduce-scatter"
            collective = _collective(kind, one, around, times, overlapped, places, topology)
            if (channel, kind) in arithmetic:
                collective = dataclasses.replace(collective, overlapped=True,
                                                 cycles=arithmetic[channel, kind])
            if collective.group > 1:
                found.append(collective)
    return found


def _beside(module: Module) -> dict[tuple[str | None, str], float]:
    """{(channel, kind): cycles of the fusions that carry parts of the transfer, each time}. Several
    transfers of one fusion share its cycles. The transfer begins in a fusion of its own, before."""
    carried: dict[tuple[str | None, str], float] = {}
    for instruction, _, _ in module.executed():
        calls = instruction.attribute("calls") or "" if instruction.opcode == "fusion" else ""
        estimate = CYCLES.search(instruction.rest)
        if "async" not in calls or estimate is None:
            continue
        parts = {(i.attribute("channel_id"), i.opcode) for i in module.computations.get(calls, [])
                 if i.opcode in KINDS}
        for part in parts:
            carried[part] = carried.get(part, 0.0) + int(estimate.group(1)) / len(parts)
    return carried


def _collective(kind: str, one: Instruction, beside: dict, times: int, overlapped: bool,
                places: "_Places", topology: Topology) -> Collective:
    size = sum(a.bytes for name in one.operands if name in beside for a in beside[name].results)
    groups = groups_of(one.rest, places.count)
    members = len(groups[0])
    if kind == "all-gather":
        size *= members
    axes, spans = places.spanned(groups[0])
    together = members if topology.chip.is_tpu else places.together(groups)
    return Collective(kind, size, members, times, axes, spans, together < members, overlapped,
                      together)


def _between_slices(one: Instruction, times: int, topology: Topology) -> Collective:
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    name = kind.group(1).lower().replace("_", "-") if kind else "collective-permute"
    size = sum(a.bytes for a in one.results if a.dims)
    if name == "all-gather":
        size *= topology.slices
    return Collective(name if name in KINDS else "collective-permute", size, topology.slices, times,
                      (), (), True, False)


def groups_of(text: str, devices: int) -> np.ndarray:
    """(groups, members): numbers of the devices that talk to each other, from replica_groups or
    source_target_pairs in any of the notations that XLA prints."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", text)
    if pairs:  # a shift: the devices of one pair tell which axis it goes along
        return np.asarray([[int(n) for n in re.findall(r"\d+", p)]
                           for p in re.findall(r"\{[\d,]+", pairs.group(0))])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(\[([\d,]*)\]"
                     r"(?:T\(([\d,]*)\))?\))?\s*\{([^}]*)\}", text)
    if mesh:
        return _mesh_groups(*mesh.groups())
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        rows, columns, dims, order = iota.groups()
        return _numbers(dims, order).reshape(int(rows), int(columns))
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", text)
    if listed:
        return np.asarray([[int(n) for n in group.split(",")]
                           for group in re.findall(r"\{([\d,]+)\}", listed.group(1))])
    return np.arange(devices).reshape(1, -1)


def _numbers(dims: str, order: str | None) -> np.ndarray:
    shape = [int(d) for d in dims.split(",")]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose([int(d) for d in order.split(",")]) if order else numbers


def _mesh_groups(axes: str, dims: str | None, order: str | None, used: str) -> np.ndarray:
    """XLA's `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a','b':(1)2}`; b:(p)n is n parts of b
    after its first p."""
    names, sizes = zip(*((n, int(s)) for n, s in re.findall(r"'?([\w.]+)'?=(\d+)", axes)),
                       strict=True)
    numbers = (_numbers(dims, order) if dims else np.arange(math.prod(sizes))).reshape(sizes)
    shape, chosen = [], []
    used_parts = {n: (int(p or 1), int(s) if s else None)
                  for n, p, s in re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", used)}
    for name, size in zip(names, sizes, strict=True):
        before, part = used_parts.get(name, (1, 1))
        part = size if part is None else part
        chosen.append(len(shape) + 1)
        shape += [before, part, size // before // part]
        if name not in used_parts:
            chosen.pop()
    numbers = numbers.reshape(shape)
    rest = [d for d in range(len(shape)) if d not in chosen]
    return numbers.transpose([*rest, *chosen]).reshape(-1, math.prod(shape[d] for d in chosen))


class _Places:
    """Where the devices of a mesh are, by their number in the program."""

    def __init__(self, mesh, topology: Topology):
        self.devices = list(mesh.devices.flat)
        self.shape = mesh.devices.shape
        self.names = mesh.axis_names
        self.count = len(self.devices)
        self.topology = topology

    def together(self, groups: np.ndarray) -> int:
        """How many of a group are in one slice; the fewest of all groups."""
        size = self.topology.devices_a_slice
        slices = np.vectorize(lambda n: self.devices[n % self.count].id // size)(groups)
        return int(min((row == row[0]).sum() for row in slices))

    def spanned(self, group: Sequence[int]) -> tuple[tuple[str, ...], tuple[tuple[int, bool], ...]]:
        """Mesh axes, and (length, ring) of the slice's dimensions."""
        index = np.stack(np.unravel_index(np.asarray(group) % self.count, self.shape), axis=1)
        axes = tuple(name for name, column in zip(self.names, index.T, strict=True)
                     if len(set(column)) > 1)
        members = [self.devices[n % self.count] for n in group]
        spans = []
        for dim, (size, ring) in enumerate(zip(self.topology.shape, self.topology.rings(),
                                               strict=True)):
            if not self.topology.chip.is_tpu:
                break
            length = len({d.coords[dim] for d in members})
            if length > 1:
                spans.append((length, ring and length == size))
        return axes, tuple(spans)
