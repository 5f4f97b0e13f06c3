"""The planner: slices by name, what a compiled program says, bytes and batches, and whether every
full-size config fits."""

import dataclasses
import importlib.metadata
import os
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from avjax.errors import UserError
from avjax.planning import (
    advice,
    collectives,
    compilers,
    hlo,
    kernels,
    libtpu,
    planner,
    roofline,
    search,
    topologies,
    xla_gpu,
)
from avjax.sharding.mesh import make_mesh
from avjax.systems import api
from avjax.training.step import CompiledStep
from configs import head_vae
from launch.flags import load_config
from tests.planning import hlo_samples

FULL_SIZE = ("avflow_paper.py", "avflow_released.py", "avflow_50h.py",
             "avflow_ablations.py:cascaded", "avflow_text.py",
             "avflow_text.py:paper", "hallo2.py", "head_vae.py", "talker_0_6b.py", "tavid.py:text",
             "tavid.py:acoustic", "tavid.py:appearance", "tavid.py:mapper", "tavid.py:motion",
             "tavid.py:temporal", "tavid.py:speaker", "tavid.py",
             "vocoder.py:v2")  # the largest of them; each is traced for many seconds
XLA_TPU = compilers.find(topologies.CHIPS["v5e"])
XLA_GPU = compilers.find(topologies.CHIPS["h100"])


@pytest.fixture(scope="module")
def small():
    """A head VAE of a few thousand parameters, 16 rows of 8 frames; not to be changed."""
    config = head_vae.get_config()
    config.system.d_ff, config.data.segment = 16, 8
    return config.lock()


@pytest.fixture(scope="module")
def job(small):
    """Traced once for all tests: it keeps what it has counted."""
    return planner.Job(small)


@pytest.fixture(scope="module")
def mapper_job():
    return planner.Job(load_config("configs/tavid_mapper.py"))


# ---- slices

@pytest.mark.parametrize(("name", "slices", "devices"),
                         [("v5e:16x16", 2, 512), ("v5p:4x4x8", 1, 128), ("v4:2x2x1", 1, 4),
                          ("tpu7x:2x2x2", 1, 16), ("h100:8", 4, 32), ("v6e:1x1", 1, 1),
                          ("gb200:72", 2, 144), ("b200:4", 1, 4)])
def test_a_slice_has_its_devices(name, slices, devices):
    topology = topologies.parse(name, slices)
    made = topologies.stand_ins(topology)
    assert topology.devices == len(made) == devices and topology.name == name
    assert len({(d.slice_index, d.coords, d.core_on_chip, d.id) for d in made}) == devices
    mesh = make_mesh({"data": -1, "fsdp": 1}, made, {"data": -1} if slices > 1 else None)
    assert mesh.shape["data"] == devices


@pytest.mark.parametrize("name", ["v3:4x4", "v5e:3x3", "v5e", "v5p:4x4", "v5p:2x3x4",
                                  "v5p:64x64x64", "h100:3", "v5e:16x32", "h100:16", "gb200:6",
                                  "gb200:76", "h100:8x2", "h100"])
def test_no_such_slice(name):
    with pytest.raises(UserError, match="expected"):
        topologies.parse(name)


def test_more_cards_than_a_machine_has_are_more_machines():
    with pytest.raises(UserError, match="there is no such slice.*h100:16.*1, 2, 4 or 8 GPUs.*"
                       "--topology=h100:8 --slices=2"):
        topologies.parse("h100:16")
    assert topologies.parse("h100:8", 2).described == "2 machines of h100:8, 8 GPUs each"


def test_rings_close_where_the_wiring_does():
    assert topologies.parse("v5e:8x16").rings() == (False, True)
    assert topologies.parse("v5p:4x4x8").rings() == (True, True, True)
    # optical switches close whole cubes only
    assert topologies.parse("v5p:2x4x4").rings() == (False, False, False)


def test_scaled_slices():
    base = topologies.parse("v5e:4x4")
    grown = [search.with_chips(base, chips) for chips in (16, 64, 256, 512)]
    assert [(t.name, t.slices) for t in grown] == [
        ("v5e:4x4", 1), ("v5e:8x8", 1), ("v5e:16x16", 1), ("v5e:16x16", 2)]
    assert search.with_chips(topologies.parse("v4:2x2x1"), 512).name == "v4:8x8x8"
    assert search.with_chips(topologies.parse("h100:8"), 32).slices == 4
    racks = [search.with_chips(topologies.parse("gb200:72"), n) for n in (36, 72, 288)]
    assert [(t.name, t.slices) for t in racks] == [("gb200:36", 1), ("gb200:72", 1),
                                                   ("gb200:72", 4)]
    with pytest.raises(UserError, match="no slices of so many"):
        search.with_chips(base, 48)


def test_libtpu_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="libtpu"):
        libtpu.find(str(tmp_path))
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "libtpu.so").touch()
    monkeypatch.setenv("AVJAX_LIBTPU", str(tmp_path))
    assert libtpu.find() == str(tmp_path / "libtpu" / "libtpu.so")


@pytest.mark.parametrize("version, reads",
                         [("0.0.42.1", True), ("0.0.48", False), ("0.0.52", False)])
def test_a_libtpu_that_this_jax_does_not_read_is_named(tmp_path, monkeypatch, version, reads):
    """What JAX 0.10 ends with is XLA's RET_CHECK, with a traceback."""
    library = tmp_path / "libtpu" / "libtpu.so"
    library.parent.mkdir()
    library.touch()
    (tmp_path / f"libtpu-{version}.dist-info").mkdir()
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ['requests; extra == "tpu"',
                                                                     'libtpu==0.0.42.*; extra == '
                                                                     '"tpu"'])
    other = libtpu.other_version(str(library))
    assert other.startswith(
        f"libtpu {version}, where jax ") and "libtpu 0.0.42.*" in other or reads and not other


# ---- compiled programs

def test_every_notation_of_groups():
    wanted = [[0, 2, 4, 6], [1, 3, 5, 7]]
    for text in ("replica_groups={{0,2,4,6},{1,3,5,7}}", "replica_groups=[2,4]<=[4,2]T(1,0)",
                 "replica_groups=mesh['a'=4,'b'=2] {'a'}",
                 "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}",
                 "replica_groups=mesh['a'=8] {'a':(1)4}"):
        np.testing.assert_array_equal(collectives.groups_of(text + ", to_apply=%add", 8), wanted,
                                      err_msg=text)
    np.testing.assert_array_equal(collectives.groups_of("replica_groups=mesh[x=2,y=2,z=2] {x,z}",
                                                        8),
                                  [[0, 1, 4, 5], [2, 3, 6, 7]])
    np.testing.assert_array_equal(collectives.groups_of("replica_groups={}", 4), [[0, 1, 2, 3]])
    np.testing.assert_array_equal(collectives.groups_of("source_target_pairs={{0,1},{1,2}}, x", 4),
                                  [[0, 1], [1, 2]])


def test_a_program_compiled_here():
    """Five scanned layers gather their weights over fsdp each; a sum goes over everything once."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    weights = jax.ShapeDtypeStruct((5, 64, 128), jnp.float32,
                                   sharding=NamedSharding(mesh, P(None, "fsdp", None)))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32,
                             sharding=NamedSharding(mesh, P(("data", "fsdp"))))

    def f(weights, x):
        def layer(h, w):
            w = jax.lax.with_sharding_constraint(w, P())
            return jnp.tanh(h @ w) @ w.T, None

        return jax.lax.scan(layer, x, weights)[0].sum()

    with jax.set_mesh(mesh):
        text = jax.jit(f).lower(weights,
                                x).compile(compiler_options={"xla_backend_optimization_level":
                                                             "0"}).as_text()
    found = collectives.read(hlo.parse(text), mesh, topologies.parse("h100:8"))
    gathers = [c for c in found if c.kind == "all-gather"]
    assert sum(c.times * c.bytes
               for c in gathers) == 5 * 64 * 128 * 4 and {c.axes for c in gathers} == {("fsdp",)}
    total = [c for c in found if c.kind == "all-reduce"]
    assert {(c.axes, c.bytes, c.times) for c in total} == {(("data", "fsdp"), 4, 1)}


def test_what_xla_tpu_hides():
    """A reduce-scatter and a gather within fusions (where it starts, nothing runs beside it), a
    peeled loop, a transfer between slices."""
    topology = topologies.parse("v5e:4x4", 2)
    mesh = make_mesh({"data": -1, "fsdp": 4}, topologies.stand_ins(topology), {"data": -1})
    module = hlo.parse(hlo_samples.TPU)
    found = collectives.read(module, mesh, topology)
    told = sorted((c.kind, c.bytes, c.group, c.times, c.dcn, c.overlapped) for c in found)
    assert told == [("all-gather", 4096 * 1024 * 2, 4, 5, False, True),
                    ("all-reduce", 512 * 1024, 2, 5, True, False),
                    ("reduce-scatter", 4096 * 1024 * 2, 4, 5, False, False)]
    assert {c.axes for c in found if not c.dcn} == {("fsdp",)}
    assert roofline.cycles(module) == 5 * (1000 + 3000 + 2000) + 77
    gather = found[0]
    assert gather.hidden(topology) == pytest.approx(5 * 5000 / 1.5e9)
    assert gather.hidden(topology) < gather.seconds(topology)
    assert dataclasses.replace(gather, cycles=1e9).hidden(topology) == gather.seconds(topology)
    assert dataclasses.replace(gather, overlapped=False).hidden(topology) == 0
    # of the stacked weights one layer is read each time: f32[1,4096,256]; what lies in VMEM, S(1),
    # costs nothing
    assert roofline.hbm_bytes(module) == pytest.approx(5 * (4096 * 256 * 4), rel=1e-4)


def test_what_xla_gpu_writes():
    """Operations that wait or not, over NVLink or the network; kernels; what a library's workspace
    and memory space 1 do not change."""
    topology = topologies.parse("h100:4", 2)
    mesh = make_mesh({"data": -1, "fsdp": 4}, topologies.stand_ins(topology), {"data": -1})
    module = hlo.parse(hlo_samples.GPU, vmem=False)
    found = collectives.read(module, mesh, topology)
    told = sorted((c.kind, c.bytes, c.group, c.together, c.times, c.dcn, c.overlapped)
                  for c in found)
    size = 1024 * 2048 * 2
    assert told == [("all-gather", size, 4, 4, 5, False, False),
                    ("all-reduce", size // 4, 8, 4, 1, True, True),
                    ("reduce-scatter", size, 4, 4, 5, False, True)]
    assert kernels.count(module) == {"all-gather": 5, "cuBLAS product": 5, "fusion": 5,
                                     "reduce-scatter": 5, "fused attention": 1, "all-reduce": 1}
    gather, product, tanh, scatter = 5 * size // 4, 2 * size + size // 2, 2 * size, 5 * size // 4
    attention = 4 * 1024 * 8 * 128 * 2 + 8 * 1024 * 4
    wanted = 5 * (gather + product + tanh + scatter) + attention + 2 * size // 4
    assert roofline.hbm_bytes(module) == pytest.approx(wanted, abs=100)


def test_metadata_with_line_ends():
    """As XLA:TPU prints a Pallas kernel: what follows it was lost."""
    kernel = ('  %splash_mha_fwd.1 = bf16[2,1024]{1,0} custom-call(%w), '
              'custom_call_target="tpu_custom_call", kernel_metadata={{\n"block_q": 512\n'
              '}}, backend_config={"estimated_cycles":"7"}\n  %custom-call.2')
    text = hlo_samples.GPU.replace("  %custom-call.2", kernel, 1)
    before, after = (kernels.count(hlo.parse(t)) for t in (hlo_samples.GPU, text))
    assert after == before | {"fused attention": before["fused attention"] + 5}
    assert roofline.cycles(hlo.parse(text)) == 5 * 7


def test_seconds_between_machines():
    """Each card of a machine takes its share of what leaves the machine."""
    topology = topologies.parse("h100:8", 2)
    total = 10**9 * 2 * 15 / 16  # bytes that a card sends on
    reduce = collectives.Collective("all-reduce", 10**9, 16, dcn=True, together=8)
    assert reduce.across == total / 8
    assert reduce.seconds(topology) == pytest.approx(total / 8 / 50e9 + 20e-6)
    alone = collectives.Collective("all-reduce", 10**9, 2, dcn=True)
    assert alone.seconds(topology) == pytest.approx(10**9 / 50e9 + 20e-6)
    exchange = collectives.Collective("all-to-all", 10**9, 16, dcn=True, together=8)
    assert exchange.across == 10**9 / 2


def test_seconds_of_collectives():
    v5e, pod = topologies.parse("v5e:4x4"), topologies.parse("v5e:16x16", 2)
    reduce = collectives.Collective("all-reduce", 10**9, 16, spans=((4, False), (4, False)))
    assert reduce.seconds(v5e) == pytest.approx(2 * 10**9 * 15 / 16 / 100e9 + 12e-6)
    ring = collectives.Collective("all-gather", 10**9, 16, times=3, spans=((16, True),))
    assert ring.seconds(pod) == pytest.approx(3 * (10**9 * 15 / 16 / 100e9 + 8e-6))
    across = collectives.Collective("all-reduce", 10**6, 2, dcn=True)
    assert across.seconds(pod) == pytest.approx(10**6 / 3.125e9 + 20e-6)


def test_bounds():
    topology = topologies.parse("v5e:4x4")
    gather = collectives.Collective("all-gather", 10**8, 16, spans=((4, False), (4, False)),
                                    overlapped=True)
    line = roofline.make(16 * 197e12 * 0.01, topology, [gather], hbm_bytes=819e6, cycles=30_000_000)
    assert (line.compute, line.hbm, line.cycles) == pytest.approx((0.01, 0.001, 0.02))
    assert line.floor == line.compute and line.bound == "compute" and line.mfu(
        line.floor) == pytest.approx(1.0)
    assert line.serial == pytest.approx(0.01
                                        + gather.seconds(
                                            topology)) and line.compiler == pytest.approx(0.02)


# ---- jobs

def test_auto_arithmetic_is_the_accelerators():
    config = load_config("configs/tavid.py")
    fixed = planner.for_accelerators(config)
    assert config.system.text.compute_dtype == "auto"
    assert fixed.system.text.compute_dtype == "bfloat16"
    assert fixed.system.visual.compute_dtype == "bfloat16"


def test_state_is_divided_as_the_rules_say(mapper_job):
    whole, parts = (mapper_job.plan(topologies.parse("v5e:2x4"), sizes={"data": -1, "fsdp": n},
                                    batch=8, largest=False) for n in (1, 8))
    for part in ("parameters", "optimizer", "average", "gradients"):
        assert whole.memory[part] / 8 < parts.memory[part] < whole.memory[part] / 3, part
    assert whole.memory["activations"] == parts.memory["activations"] and whole.flops == parts.flops
    assert sum(row[4] for row in parts.table) == whole.memory["parameters"]
    assert sum(row[5] for row in parts.table) == parts.memory["parameters"]


def test_a_compiled_step_agrees(small, job, monkeypatch):
    """On devices that are here: the state of the plan is what the program's arguments take, its
    FLOPs are the loop's. A kernel that does not fit what a hurried compilation leaves it is
    compiled with all of a core's own memory."""
    tried, made = [], []

    class Step(CompiledStep):
        def __init__(self, *args, options):
            tried.append(options)
            if options:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: E1001: "
                                                 "CompileTimeScopedVmemOom: Ran out of memory")
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(planner, "CompiledStep", Step)
    mesh = make_mesh({"data": 2, "fsdp": 4})
    compiler = types.SimpleNamespace(options={}, hurried={"less": 1})
    found = job.compile(mesh, topologies.parse("h100:8"), 16, compiler)
    assert tried == [{"less": 1}, {}]
    memory = job.memory(planner.abstract_mesh_of(mesh.shape), 16)
    state = sum(memory[part] for part in ("parameters", "optimizer", "average", "batch"))
    assert found.arguments == pytest.approx(state, rel=0.02)
    assert job.flops(planner.abstract_mesh_of(mesh.shape),
                     16) == pytest.approx(made[0].flops, rel=1e-3)


def test_largest_batch_is_the_largest(job):
    topology = topologies.parse("v5e:2x2")
    most = job.plan(topology).largest_batch
    assert most % 4 == 0 and job.plan(topology, batch=most, largest=False).fits
    assert not job.plan(topology, batch=int(1.1 * most) // 4 * 4, largest=False).fits


def test_a_job_that_does_not_fit_says_what_would(job):
    topology = topologies.parse("v5e:2x2")
    most = job.plan(topology).largest_batch
    plan = job.plan(topology, batch=4 * most // 64 * 64)
    lines = advice.advice(job, plan)
    assert not plan.fits and f"--config.data.batch_size={plan.largest_batch}" in lines
    assert any("accumulate" in line for line in lines)


def test_search_without_a_compiler(small, job):
    topology = topologies.parse("v5e:2x4")
    found, best = search.search(job, topology)
    assert best.fits and best.mesh == {"data": 8, "fsdp": 1, "seq": 1,
                                       "tensor": 1}, "a small model wants plain data parallelism"
    assert best.batch > 10 * small.data.batch_size and found[0].batch == best.batch


def test_search_shards_what_does_not_fit_whole(monkeypatch, mapper_job):
    tiny = dataclasses.replace(topologies.CHIPS["v5e"],
                               hbm=mapper_job.plan(topologies.parse("v5e:1x1"), batch=1).needed
                               * 0.6)
    monkeypatch.setitem(topologies.CHIPS, "v5e", tiny)
    found, best = search.search(mapper_job, topologies.parse("v5e:2x4"))
    assert best.fits and best.mesh["fsdp"] > 1 and best.mesh["tensor"] == 1


def test_weak_scaling_keeps_the_share(job):
    plans = search.weak_scaling(job, topologies.parse("v5e:4x4"), [16, 64, 512],
                                rows=2)
    assert [p.batch for p in plans] == [32, 128,
                                        1024] and [p.topology.slices for p in plans] == [1, 1, 2]
    assert plans[2].flops == 16 * plans[1].flops / 2 and plans[2].roofline.dcn > 0 == plans[
        1].roofline.dcn
    assert len({p.memory["activations"] for p in plans}) == 1


def test_what_xla_says_of_memory():
    told = "the total memory required for HLO temporaries (66.15G) exceeds available HBM (15.75G)."
    assert planner.exhausted(told) == int(66.15 * 2**30)
    assert planner.exhausted(
        "Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm.") == int(17.25 * 2**30)
    assert planner.exhausted("something else") == 0


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configs_fit_their_slices(name):
    """By shapes; every full-size config must state a slice and fit it."""
    config = load_config(f"configs/{name}")
    assert config.plan.topology, "c.plan.topology"
    job, topology = planner.Job(config), topologies.parse(config.plan.topology, config.plan.slices)
    plan = job.plan(topology, largest=False)
    assert plan.fits, f"{plan.needed / 2**30:.1f} GiB; {' or '.join(advice.advice(job, plan))}"


def test_all_configs_that_state_a_slice_are_checked():
    folder = pathlib.Path(__file__).parents[2] / "configs"
    stated = {p.name for p in folder.glob("*.py") if p.stem not in ("__init__", "base")
              and load_config(p).plan.topology}
    assert stated == {name.split(":")[0] for name in FULL_SIZE}


COMPILED = FULL_SIZE if os.environ.get("AVJAX_PLAN_ALL") else ("head_vae.py",)


@pytest.mark.skipif(XLA_TPU is None, reason="needs libtpu")
@pytest.mark.parametrize("name", COMPILED)
def test_full_size_configs_fit_their_slices_by_xla(name):
    """Compiled for the real topology; all of them with AVJAX_PLAN_ALL=1."""
    config = load_config(f"configs/{name}")
    topology = topologies.parse(config.plan.topology, config.plan.slices)
    plan = planner.Job(config).plan(topology, compiler=XLA_TPU, largest=False)
    assert plan.fits and plan.compiled, f"{plan.needed / 2**30:.2f} GiB"
    state = sum(plan.memory[part] for part in ("parameters", "optimizer", "average", "batch"))
    assert plan.compiled.arguments == pytest.approx(state, rel=0.2)
    assert plan.roofline.floor <= plan.roofline.serial and 0 < plan.roofline.mfu(
        plan.roofline.compiler) < 1


@pytest.mark.skipif(XLA_GPU is None, reason="needs the extra aot-gpu")
@pytest.mark.parametrize(("name", "changes", "sizes"), [
    ("head_vae.py", {"system.d_ff": 16, "data.segment": 8}, {"data": -1}),
    ("tavid_mapper.py", {"system.num_blocks": 2, "data.segment": 64}, {"data": 2, "fsdp": -1})])
def test_a_step_compiled_for_cards_that_are_not_here(name, changes, sizes):
    """The state on a device is exactly what the sharding rules say."""
    plan = planner.Job(load_config(f"configs/{name}", changes)).plan(
        topologies.parse("h100:8"), compiler=XLA_GPU, sizes=sizes, largest=False)
    memory, compiled = plan.memory, plan.compiled
    assert plan.fits and plan.compiler == "XLA:GPU"
    state = sum(memory[part] for part in ("parameters", "optimizer", "average", "batch"))
    assert compiled.arguments == state + 4, "and the number of the step"
    assert compiled.peak >= compiled.arguments + memory["gradients"]
    assert compiled.kernels["cuBLAS product"] > 0
    reduced = {c.axes for c in compiled.collectives if c.kind in ("all-reduce", "reduce-scatter")}
    assert any("data" in axes for axes in reduced) and not any(c.dcn for c in compiled.collectives)
    assert {"all-gather"} <= {c.kind for c in compiled.collectives} or "fsdp" not in sizes
    assert 0 < plan.roofline.mfu(plan.roofline.floor) < 1


@pytest.mark.parametrize("name", list(xla_gpu.CARDS))
def test_cards_are_described_as_the_data_sheets_do(name):
    chip, card = topologies.CHIPS[name], xla_gpu.CARDS[name]
    assert card.kind == chip.kind and chip.hbm == 0.75 * card.memory
    assert card.rate == pytest.approx(chip.hbm_rate, rel=0.02)
    if XLA_GPU is not None:
        devices = XLA_GPU.devices(topologies.parse(f"{name}:4", 2))
        assert [d.device_kind for d in devices] == [chip.kind] * 8
        assert [d.id for d in devices] == list(range(8))


@pytest.mark.parametrize(("versions", "said"), [
    ({"jax-cuda13-plugin": "0.1.0"}, "does not belong to this JAX.*expected: [0-9.]+.*found: 0.1.0"
     ".*jax-cuda13-plugin=="),
    ({"jax-cuda13-plugin": None}, "needs cuDNN.*nvidia-cudnn-cu13")])
def test_an_xla_gpu_that_cannot_be_used(monkeypatch, versions, said):
    here = importlib.metadata.version("jaxlib")
    monkeypatch.setattr(xla_gpu, "_version", lambda name: versions[name] or here
                        if name in versions else "")
    with pytest.raises(UserError, match=said):
        xla_gpu.find()
    monkeypatch.setattr(xla_gpu, "_version", lambda name: "")
    assert xla_gpu.find() is None


def test_specs_of_a_batch_are_shapes_only(small):
    """The planner makes no arrays."""
    system = api.build(small.system)
    assert all(isinstance(x, jax.ShapeDtypeStruct)
               for x in api.example_batch(system, batch=2, time=8).values())


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
def test_a_kernel_that_does_not_run_here_is_planned_all_the_same(kernel):
    config = load_config("configs/tavid_mapper.py", {"system.attention_kernel": kernel,
                                                     "system.num_blocks": 1})
    assert planner.Job(config).cost(1)[0] > 0
