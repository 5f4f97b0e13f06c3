"""The planner: bytes and batches, and whether every full-size config fits."""

import dataclasses
import importlib.metadata
import os
import pathlib
import types

import jax
import pytest

from avjax.errors import UserError
from avjax.planning import (
    advice,
    compilers,
    planner,
    search,
    topologies,
    xla_gpu,
)
from avjax.sharding.mesh import make_mesh
from avjax.systems import api
from avjax.training.step import CompiledStep
from configs import head_vae
from launch.flags import load_config

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
