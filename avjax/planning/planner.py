"""Whether a training job fits a slice, how fast it could be and its largest batch, without the
slice.

Two levels. Shapes alone (seconds, any chip): bytes of the state from the sharding rules, of
activations from the jaxpr, FLOPs from the scan-aware counter, communication from what the rules
imply. Compiled (avjax.planning.compilers): XLA:TPU or XLA:GPU compiles the loop's own train step
for the slice's real topology, which gives its memory, collectives, kernels and, from XLA:TPU,
cycles.
"""

import math
import re
import time
from typing import Any

import jax

from avjax.nn.fused_attention import FUSED
from avjax.planning import collectives, hlo, kernels, roofline
from avjax.planning.collectives import Collective
from avjax.planning.compilers import Compiler, on_devices
from avjax.planning.plan import Compiled, Plan, TooLarge, abstract_mesh_of
from avjax.planning.topologies import Topology, stand_ins
from avjax.sharding.mesh import BATCH_AXES, check_batch, make_mesh
from avjax.sharding.rules import named_leaves
from avjax.systems import api
from avjax.training.flops import count_flops, flops_of, live_jaxpr, without_remat
from avjax.training.memory import bytes_of, peak_of
from avjax.training.optimizer import make_optimizer
from avjax.training.state import abstract_batch, abstract_params, place_state, state_shapes
from avjax.training.step import CompiledStep, make_gradients, step_of

USABLE = 0.98  # the share of memory that an estimate may fill
# JAX's option for fast compilation and its value; 0.11 has levels only.
FAST_COMPILE = ("jax_exec_time_optimization_effort", -1.0)
if not hasattr(jax.config, FAST_COMPILE[0]):
    FAST_COMPILE = ("jax_optimization_level", "O1")
NO_SCRATCH = "ScopedVmemOom"  # in XLA:TPU's error where a kernel needs more of a core's memory
PARTS = ("parameters", "optimizer", "average", "gradients", "batch", "activations")


class Job:
    """A config's training job in shapes. Built once, planned for many meshes and batches."""

    def __init__(self, config):
        """config: an experiment; "auto" arithmetic becomes that of accelerators, wherever this
        runs."""
        self.config = for_accelerators(config)
        self.system = api.build(self.config.system)
        # traced on this CPU, where fused attention does not run: by shapes its scores count as kept
        self._shaped = self.config.system
        for kernel in FUSED:
            self._shaped = replaced(self._shaped, "attention_kernel", kernel, "auto")
        self._traced = api.build(self._shaped)
        shapes = abstract_params(self._traced)
        self.optimizer = make_optimizer(self.config.optimizer, self.config.train.steps, shapes,
                                        self.system.turns)
        self.ema = self.config.optimizer.ema_decay > 0
        self.shapes = state_shapes(shapes, self.optimizer, ema=self.ema)
        self.accumulate = int(self.config.optimizer.accumulate)
        self._costs: dict[int, tuple[int, int]] = {}
        self._useful: float | None = None

    def mesh(self, topology: Topology, *, compiler: Compiler | None = None, sizes=None, dcn=None):
        """The mesh over the slice's devices (stand-ins without a compiler), as training makes it;
        without config.dcn, data spans the slices."""
        dcn = dict(self.config.dcn) if dcn is None else dcn
        if topology.slices > 1 and all(size == 1 for size in dcn.values()):
            dcn = {"data": -1}
        sizes = sizes or self.config.mesh
        if compiler is not None and topology.chip.is_tpu:
            return make_mesh(sizes, compiler.devices(topology), dcn)
        # compile-only GPUs do not say which slice they belong to
        mesh = make_mesh(sizes, stand_ins(topology), dcn)
        return mesh if compiler is None else on_devices(mesh, compiler.devices(topology))

    def state(self, mesh) -> Any:
        return place_state(self.shapes, self.system.param_rules, mesh,
                           whole_params=self.optimizer.whole_params)

    def cost(self, rows: int) -> tuple[int, int]:
        """(FLOPs, bytes of activations) of the gradients for `rows` rows of a batch on one
        device."""
        if rows not in self._costs:
            gradients = make_gradients(self._traced, self.optimizer)
            trains = jax.tree.leaves(self.optimizer.trainable)

            def step(params, batch, key):  # without the gradients of frozen parameters
                loss, metrics, grads = gradients(params, batch, key)
                return loss, metrics, [grad for grad, train
                                       in zip(jax.tree.leaves(grads), trains, strict=True) if train]

            key = jax.eval_shape(lambda: jax.random.key(0))
            batch = api.example_batch(self.system, batch=rows, time=self.config.data.segment)
            jaxpr = live_jaxpr(step, self.shapes["params"], batch, key)
            # gradients are counted apart
            self._costs[rows] = flops_of(jaxpr), peak_of(jaxpr, results=False)
        return self._costs[rows]

    def useful(self) -> float:
        """The share of the FLOPs that the model needs; the rest is recomputation by remat. Traced
        on the first call."""
        if self._useful is None:
            plain = without_remat(self._shaped)
            self._useful = (1.0 if plain is None
                            else self.flops_of_row(api.build(plain)) / self.cost(1)[0])
        return self._useful

    def flops_of_row(self, system) -> int:
        batch = api.example_batch(system, batch=1, time=self.config.data.segment)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return count_flops(make_gradients(system, self.optimizer), self.shapes["params"], batch,
                           key)

    def costs(self, rows: int) -> tuple[float, float]:
        """`cost` of any number of rows, extrapolated from one and two."""
        if rows <= 2:
            return self.cost(rows)
        one, two = self.cost(1), self.cost(2)
        return tuple(a + (b - a) * (rows - 1) for a, b in zip(one, two, strict=True))

    def rows(self, batch: int, mesh) -> int:
        """Rows of a micro-batch on one device."""
        return batch // math.prod(mesh.shape[a] for a in BATCH_AXES) // self.accumulate

    def memory(self, mesh, batch: int) -> dict[str, int]:
        """PARTS -> bytes on a device. Activations are divided by seq but not by tensor, which
        shards some of them: an upper estimate there."""
        state = self.state(mesh)
        abstract = abstract_batch(self.system, mesh, batch=batch, time=self.config.data.segment)
        kept = self.costs(self.rows(batch, mesh))[1]
        return {"parameters": on_device(state["params"]),
                "optimizer": on_device(state["opt_state"]),
                "average": on_device(state.get("ema", ())),
                "gradients": on_device(trainable(state["params"], self.optimizer))
                * (2 if self.accumulate > 1 else 1),
                "batch": on_device(abstract), "activations": int(kept / mesh.shape["seq"])}

    def flops(self, mesh, batch: int) -> int:
        """FLOPs of a whole step; seq and tensor only divide them."""
        shards = math.prod(mesh.shape[a] for a in BATCH_AXES)
        return int(self.costs(self.rows(batch, mesh))[0] * shards * self.accumulate)

    def expected(self, mesh, topology: Topology, batch: int) -> roofline.Roofline:
        """The roofline by shapes, if every byte of state and activations is read and written
        once."""
        return roofline.make(self.flops(mesh, batch), topology, self.implied(mesh, topology),
                             hbm_bytes=2 * sum(self.memory(mesh, batch).values()),
                             useful=self.useful)

    def implied(self, mesh, topology: Topology) -> list[Collective]:
        """Communication that the rules imply, in 16 bits: all-gathers of parameters forward and
        backward, reduce-scatters and all-reduces of gradients. What seq and tensor exchange in
        every layer is not included."""
        data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
        whole = bytes_of(self.shapes["params"]) // 2 // mesh.shape["tensor"]
        across = topology.slices
        found = []
        if fsdp > 1:
            # whole parameters: gathered in 32 bits, once, as they are updated
            size, times = ((2 * whole, 1) if self.optimizer.whole_params
                           else (whole, 2 * self.accumulate))
            found += [Collective("all-gather", size, fsdp, times, ("fsdp",),
                                 spans(topology, fsdp)),
                      Collective("reduce-scatter", whole, fsdp, self.accumulate, ("fsdp",),
                                 spans(topology, fsdp))]
        if data // across > 1:
            found.append(Collective("all-reduce", whole // fsdp, data // across, 1, ("data",),
                                    spans(topology, data // across)))
        if across > 1:
            found.append(Collective("all-reduce", whole // topology.devices_a_slice, across, 1,
                                    ("data",), (), True))
        return found

    def compile(self, mesh, topology: Topology, batch: int, compiler: Compiler, *,
                thorough: bool = False) -> Compiled:
        """Compiles this job's train step. Raises TooLarge.

        `thorough` compiles what training compiles. Otherwise XLA optimises less, kernels may use
        less of a core's own memory (Compiler.hurried; unless one does not fit), and layers are
        scanned where the config can (system.scan_layers), in a fifth of the time. Partitioning, and
        so the bytes of the state, are the same, those of collectives nearly (a denoiser's differ by
        half a percent); but gradients are summed layer by layer instead of in a few large sums,
        buffers are larger, and the program is slower, so its cycles are no estimate.
        """
        config, system = self.config, self.system
        if not thorough:
            system = api.build(replaced(config.system, "scan_layers", False, True))
        abstract = abstract_batch(self.system, mesh, batch=batch, time=config.data.segment)
        effort = getattr(jax.config, FAST_COMPILE[0])
        hurried = {} if thorough else compiler.hurried

        def compiled(**more):
            return CompiledStep(step_of(config, system, self.optimizer), self.state(mesh), abstract,
                                mesh, options={**compiler.options, **more})

        try:
            jax.config.update(FAST_COMPILE[0], effort if thorough else FAST_COMPILE[1])
            try:
                step = compiled(**hurried)
            except jax.errors.JaxRuntimeError as error:
                if not hurried or NO_SCRATCH not in str(error):
                    raise
                step = compiled()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TooLarge(exhausted(str(error))) from error
        finally:
            jax.config.update(FAST_COMPILE[0], effort)
        start = time.perf_counter()
        module = hlo.parse(step.text(), vmem=topology.chip.is_tpu)
        found = collectives.read(module, mesh, topology)
        line = roofline.make(step.flops, topology, found, hbm_bytes=roofline.hbm_bytes(module),
                             cycles=roofline.cycles(module) if thorough else 0, useful=self.useful)
        m = step.memory
        results = m.output_size_in_bytes - m.alias_size_in_bytes
        # XLA:TPU's temporaries include some that are never live together; its own peak includes
        # live arguments.
        temporaries = min(m.temp_size_in_bytes, m.peak_memory_in_bytes or m.temp_size_in_bytes)
        peak = m.argument_size_in_bytes + results + temporaries + m.generated_code_size_in_bytes
        return Compiled(m.argument_size_in_bytes, temporaries, m.generated_code_size_in_bytes, peak,
                        step.compile_seconds + time.perf_counter() - start, found,
                        kernels.count(module), line)

    def plan(self, topology: Topology, *, batch: int | None = None, sizes=None, dcn=None,
             compiler: Compiler | None = None, largest: bool = True,
             thorough: bool = False) -> Plan:
        """The plan for a topology. Raises UserError for a mesh or batch that does not divide.

        Args:
          compiler: of these chips; compiles the step as well (`thorough`: see `compile`).
          largest: whether to find the largest batch.
        """
        batch = int(batch or self.config.data.batch_size)
        mesh = self.mesh(topology, compiler=compiler, sizes=sizes, dcn=dcn)
        check_batch(batch, mesh, accumulate=self.accumulate)
        shape_only = abstract_mesh_of(mesh.shape)
        memory = self.memory(shape_only, batch)
        expected = self.expected(shape_only, topology, batch)
        chip = topology.chip
        needed = sum(memory.values())
        compiled = None
        if compiler is not None:
            try:
                compiled = self.compile(mesh, topology, batch, compiler, thorough=thorough)
                needed = compiled.peak
            except TooLarge as error:
                needed = max(error.needed, int(chip.hbm) + 1)
        most = self.largest_batch(shape_only, topology, batch, needed) if largest else 0
        return Plan(topology, dict(mesh.shape), batch, self.table(shape_only), memory,
                    int(expected.flops), expected, compiled, compiler.name if compiler else "",
                    needed, most)

    def largest_batch(self, mesh, topology: Topology, batch: int, needed: int) -> int:
        """The largest batch that fits, extrapolated from what `batch` needs with the slope of the
        shapes' estimate; 0 = not one row."""
        unit = math.prod(mesh.shape[a] for a in BATCH_AXES) * self.accumulate
        rows = batch // unit
        here, one = (self.costs(n)[1] / mesh.shape["seq"] for n in (rows, 1))
        if rows > 1:
            slope = (here - one) / (rows - 1)
        else:
            slope = self.costs(2)[1] / mesh.shape["seq"] - one
        fixed = sum(self.memory(mesh, batch).values()) - here
        slope *= max((needed - fixed) / here, 0.1) if here > 0 else 1.0
        more = (USABLE * topology.chip.hbm - needed) / slope if slope > 0 else 0
        return max(math.floor(rows + more), 0) * unit

    def table(self, mesh) -> list[tuple[str, int, tuple[int, ...], tuple, int, int]]:
        """Parameters with their shardings; those alike but for numbers in their names are one
        row."""
        rows: dict[tuple, list] = {}
        for name, leaf in named_leaves(self.state(mesh)["params"]):
            key = re.sub(r"\d+", "*", name), leaf.shape, tuple(leaf.sharding.spec)
            rows.setdefault(key, []).append((name, leaf))
        return [(group[0][0] if len(group) == 1 else key[0], len(group), key[1], key[2],
                 bytes_of([x for _, x in group]), on_device([x for _, x in group]))
                for key, group in rows.items()]


def spans(topology: Topology, devices: int) -> tuple[tuple[int, bool], ...]:
    """(length, closed to a ring) of the dimensions that a group of so many neighbours covers,
    about."""
    found = []
    product = topology.chip.cores
    dimensions = list(zip(topology.shape, topology.rings(), strict=True))
    for length, ring in reversed(dimensions) if topology.chip.is_tpu else ():
        if product < devices and length > 1:
            whole_ring = ring and devices // product >= length
            found.append((min(length, -(-devices // product)), whole_ring))
            product *= length
    return tuple(found)


def trainable(params: Any, optimizer) -> list:
    """The parameters that have gradients."""
    trains = jax.tree.leaves(optimizer.trainable)
    return [x for x, train in zip(jax.tree.leaves(params), trains, strict=True) if train]


def on_device(tree: Any) -> int:
    """Bytes of one device's share of ShapeDtypeStructs with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
               for x in jax.tree.leaves(tree))


def for_accelerators(config):
    """A copy in which every compute_dtype "auto" is bfloat16, as on TPUs and GPUs."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.system = replaced(copy.system, "compute_dtype", "auto", "bfloat16")
    return copy


def replaced(config, name: str, old: Any, new: Any):
    """A copy in which every field `name`, at any depth, that equals `old` is `new`."""
    copy = config.copy_and_resolve_references()

    def fix(part):
        for key, value in part.items():
            if hasattr(value, "items"):
                fix(value)
            elif key == name and value == old:
                part[key] = new

    fix(copy)
    return copy


def exhausted(message: str) -> int:
    """Bytes that XLA needed, from its error; 0 = unknown."""
    found = re.search(r"temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if not found:
        return 0
    number, unit = found.groups()[:2] if found.group(1) else found.groups()[2:]
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
