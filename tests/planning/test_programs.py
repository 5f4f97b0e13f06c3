"""What a compiled program says: collectives and what hides them, kernels, traffic, bounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from avjax.planning import collectives, hlo, kernels, roofline, topologies
from avjax.sharding.mesh import make_mesh
from tests.planning import hlo_samples


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
