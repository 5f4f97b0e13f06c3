"""The best mesh and the largest batch for a slice, and how a job scales over slices.

Candidates are ordered by shapes alone; XLA is asked about the first few only.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

from avjax.errors import UserError
from avjax.planning.compilers import Compiler
from avjax.planning.plan import Plan, abstract_mesh_of, mesh_text
from avjax.planning.planner import Job
from avjax.planning.topologies import FLAT, Topology, wrong_shape
from avjax.sharding.mesh import AXES, BATCH_AXES


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh within a slice, with its largest batch and seconds a step by the estimate."""

    sizes: dict[str, int]
    batch: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.batch / self.seconds


def meshes(devices: int) -> Iterator[dict[str, int]]:
    """All meshes of a slice's devices whose fsdp, seq and tensor are powers of two."""
    powers = [2**n for n in range(devices.bit_length()) if devices % 2**n == 0]
    for fsdp, seq, tensor in itertools.product(powers, repeat=3):
        if devices % (fsdp * seq * tensor) == 0:
            yield dict(zip(AXES, (devices // (fsdp * seq * tensor), fsdp, seq, tensor),
                           strict=True))


def candidates(job: Job, topology: Topology, dcn: dict[str, int],
               limit: float = 0.9) -> list[Candidate]:
    """Meshes that divide the job's parameters and sequences, best first, each with the largest
    batch that fits into the share `limit` of the memory. Meshes without exchanges in every layer
    (seq, tensor) come first, then faster ones, then those with fewer all-gathers (fsdp)."""
    found = []
    across = {axis: topology.slices if size == -1 else size for axis, size in dcn.items()}
    for sizes in meshes(topology.devices_a_slice):
        whole = {axis: size * across.get(axis, 1) for axis, size in sizes.items()}
        mesh = abstract_mesh_of(whole)
        unit = math.prod(whole[a] for a in BATCH_AXES) * job.accumulate
        try:
            most = limit * topology.chip.hbm

            def fits(rows, mesh=mesh, unit=unit, most=most):
                return sum(job.memory(mesh, rows * unit).values()) <= most

            rows = _most_rows(fits)
        except UserError:
            continue  # something does not divide
        if rows:
            line = job.expected(mesh, topology, rows * unit)
            found.append(Candidate(sizes, rows * unit, line.serial))
    return sorted(found, key=lambda c: (c.sizes["seq"] * c.sizes["tensor"],
                                        -round(math.log(c.rate), 1), c.sizes["fsdp"]))


def _most_rows(fits: Callable[[int], bool], top: int = 1 << 20) -> int:
    """The largest n for which fits(n), by doubling and bisection; 0 where not even 1 does."""
    if not fits(1):
        return 0
    low = 1
    while low < top and fits(2 * low):
        low *= 2
    high = 2 * low
    while high - low > max(low // 16, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def search(job: Job, topology: Topology, *, compiler: Compiler | None = None, compiles: int = 4,
           log: Callable[[str], None] = lambda line: None) -> tuple[list[Candidate], Plan]:
    """(candidates by the estimate, the plan of the best that fits).

    With a `compiler`, makes at most `compiles` compilations: the first candidate's batch is
    corrected by what XLA needed until it fits, then grown once.

    Raises:
      UserError: no mesh fits a single row a device.
    """
    dcn = dict(job.config.dcn) if topology.slices == 1 else {"data": -1, "fsdp": 1}
    ordered = candidates(job, topology, dcn)
    if not ordered:
        raise UserError("no mesh of this slice fits a single row a device",
                        where=topology.described,
                        expected=f"at most {topology.chip.hbm / 2**30:.2f} GiB a device",
                        hint="a larger slice or more recomputation (remat)")
    best = None
    for candidate in ordered:
        batch = candidate.batch
        while compiles > 0 or compiler is None:
            plan = job.plan(topology, batch=batch, sizes=candidate.sizes, dcn=dcn,
                            compiler=compiler)
            if compiler is None:
                return ordered, plan
            compiles -= 1
            unit = math.prod(plan.mesh[a] for a in BATCH_AXES) * job.accumulate
            log(f"{mesh_text(plan.mesh)} batch {batch}: {plan.needed / 2**30:.2f} GiB of "
                f"{topology.chip.hbm / 2**30:.2f}{'' if plan.fits else ', too much'}")
            if plan.fits and (best is None or _rate(plan) > _rate(best)):
                best = plan
            # Extrapolated from what was needed; between half and one and a half of this batch, and
            # at least one unit away from it.
            guess = plan.largest_batch * 0.97 // unit * unit
            down = max(guess, unit, batch // 2 // unit * unit)
            up = 1.5 * batch // unit * unit
            tried = int(min(guess, up) if plan.fits else min(down, batch - unit))
            if tried < unit or (plan.fits and tried < 1.05 * batch):
                break
            if best is not None and not plan.fits and tried <= best.batch:
                break
            batch = tried
        if best is not None or compiles <= 0:
            break
    if best is None:
        raise UserError("none of the tried meshes and batches fits", where=topology.described,
                        found="; ".join(f"{mesh_text(c.sizes)} batch {c.batch}"
                                        for c in ordered[:3]),
                        hint="more tries (--compiles), a larger slice or more recomputation "
                        "(remat)")
    return ordered, best


def _rate(plan: Plan) -> float:
    """Rows a second."""
    return plan.batch / plan.roofline.compiler


def with_chips(topology: Topology, chips: int) -> Topology:
    """The topology of that many of the same chips: the squarest slice, or several of the
    largest."""
    chip = topology.chip
    if chip.dims == 2:
        biggest = math.prod(FLAT[-1])
        shapes = {math.prod(shape): shape for shape in FLAT}
    elif chip.dims == 3:
        biggest, shapes = 1 << 12, {}
        sides = (1, 2, 4, 8, 16)
        for shape in itertools.combinations_with_replacement(sides, 3):
            flat = shape[0] == 1  # one board: 2 x 2 x 1
            if not flat or shape == (1, 2, 2):
                count = math.prod(shape)
                if count not in shapes or max(shape) < max(shapes[count]):
                    shapes[count] = tuple(reversed(shape)) if flat else shape
    else:
        biggest = chip.joined
        shapes = {n: (n,) for n in range(1, biggest + 1) if not wrong_shape(chip, (n,))}
    one = min(chips, biggest)
    if one not in shapes or chips % one:
        counts = ", ".join(map(str, sorted(shapes)))
        raise UserError("no slices of so many chips", where=f"{chip.name}, {chips} chips",
                        found=str(chips), expected=f"{counts} or a multiple of {biggest}")
    return Topology(chip, shapes[one], chips // one)


def weak_scaling(job: Job, topology: Topology, chips: list[int], *, rows: float,
                 compiler: Compiler | None = None, thorough: bool = False) -> list[Plan]:
    """Plans of the same job on each number of `chips`, with `rows` of the batch per chip: fsdp, seq
    and tensor as configured, data (over slices too) takes the rest."""
    plans = []
    for count in chips:
        on = with_chips(topology, count)
        sizes = dict(job.config.mesh)
        fixed = math.prod(size for axis, size in sizes.items() if axis != "data" and size > 0)
        if sizes["fsdp"] > 0:
            sizes["data"] = -1
        batch = rows * count
        if on.devices_a_slice % fixed or batch != int(batch):
            raise UserError("the job does not scale so", where=f"{count} chips",
                            expected=f"a multiple of {fixed} devices and whole rows",
                            found=f"{on.described}, {batch:g} rows")
        dcn = {"data": -1, "fsdp": 1} if on.slices > 1 else {}
        plans.append(job.plan(on, batch=int(batch), sizes=sizes, dcn=dcn, compiler=compiler,
                              thorough=thorough, largest=False))
    return plans
