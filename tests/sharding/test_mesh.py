"""The mesh within and across slices, how batches lie on it, and who reads what."""

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from avjax.errors import UserError
from avjax.sharding.mesh import AXES, batch_shardings, batch_share, make_mesh
from avjax.sharding.slices import across_slices, device_grid
from avjax.systems.api import Spec

PROCESSES = Path(__file__).parent / "two_processes.py"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a platform that tells its slice."""

    id: int
    slice_index: int
    process_index: int = 0
    device_kind: str = "chip"
    platform: str = "chip"


CHIPS = [Chip(i, i // 4, i // 2) for i in range(8)]  # two slices of two hosts of two chips


def grid(shape, across, devices=None):
    ids = np.vectorize(lambda device: device.id)(device_grid(shape, across, devices or CHIPS[::-1]))
    return ids.reshape([s * a for s, a in zip(shape, across, strict=True)])


def test_slices_are_outermost_on_their_axis():
    """fsdp = 2 slices x 2 chips: the slow half of the axis is the outer one; tensor never leaves a
    slice."""
    mesh = grid((1, 2, 1, 2), (1, 2, 1, 1))
    assert [{i // 4 for i in mesh[0, f, 0]} for f in range(4)] == [{0}, {0}, {1}, {1}]
    mesh = grid((2, 1, 2, 1), (2, 1, 1, 1))
    assert [set((mesh[d] // 4).flat) for d in range(4)] == [{0}, {0}, {1}, {1}]


def test_minus_one_is_the_number_of_slices_and_one_process_is_one_slice():
    assert across_slices(dict(data=-1), AXES, CHIPS) == [2, 1, 1, 1]
    assert across_slices(dict(data=1, fsdp=1), AXES, jax.devices()) == [1, 1, 1, 1]
    assert dict(make_mesh(dict(data=-1, tensor=2),
                          dcn=dict(data=-1)).shape) == dict(data=4, fsdp=1, seq=1, tensor=2)


@pytest.mark.parametrize("dcn, devices, words", [
    (dict(seq=2), CHIPS, ["config.dcn.seq", "data, fsdp", "every layer"]),
    (dict(data=1, fsdp=1), CHIPS, ["slices do not fit", "product is 2, the number of slices",
                                   "config.dcn.data=-1"]),
    (dict(data=3), CHIPS, ["slices do not fit", "found: data=3"]),
    (dict(data=-1, fsdp=-1), CHIPS, ["at most one -1"]),
    (dict(data=2), None, ["slices do not fit", "number of processes"]),
    (dict(data=2), CHIPS[:6], ["different sizes", "slice 1: 2"]),
])
def test_slices_that_are_not_accounted_for(dcn, devices, words):
    with pytest.raises(UserError) as error:
        across_slices(dcn, AXES, devices or jax.devices())
    assert all(word in str(error.value) for word in words), error.value


SPECS = {"mel": Spec(("batch", "time", 80), "float32", ""),
         "who": Spec(("batch", 5), "float32", ""),
         "units": Spec(("batch", 128, 2), "int32", "", sequence=1, granularity=2)}


def test_sequences_lie_over_seq():
    placed = batch_shardings(make_mesh(dict(data=2, seq=4)), SPECS, time=344)
    assert {name: place.spec for name, place in placed.items()} == {
        "mel": P(("data", "fsdp"), "seq"), "who": P(("data", "fsdp")),
        "units": P(("data", "fsdp"), "seq")}
    assert batch_shardings(make_mesh(dict(data=8)), SPECS, time=345).keys() == SPECS.keys()


@pytest.mark.parametrize("spec, seq, words", [
    (SPECS["mel"], 2, ["batch['x'], axis 1", "multiple of 2 = config.mesh.seq 2", "344 or 346",
                       "found: 345",
                       "config.data.segment", "1, 3, 5, 15"]),
    (dataclasses.replace(SPECS["units"], shape=("batch", 126, 2)), 4,
     ["multiple of 8", "2 that stay together", "120 or 128",
      "config.system", "1, 3, 7, 9"]),
    (SPECS["who"], 2, ["no array of the batch has a sequence", "config.mesh.seq=2",
                       "x ('batch', 5)"]),
])
def test_sequences_that_do_not_divide_say_which_would(spec, seq, words):
    with pytest.raises(UserError) as error:
        batch_shardings(make_mesh(dict(data=-1, seq=seq)), {"x": spec}, time=345)
    assert all(word in str(error.value) for word in words), error.value


def hosts(shape, per_process):
    count = int(np.prod(shape))
    devices = np.array([SimpleNamespace(process_index=i // per_process) for i in range(count)],
                       dtype=object)
    return SimpleNamespace(devices=devices.reshape(shape))


def test_processes_that_hold_the_same_examples_read_the_same_share():
    assert [batch_share(hosts((2, 2, 2, 1), 4), p) for p in range(2)] == [(0, 2), (1, 2)]
    shares = [batch_share(hosts((2, 1, 8, 1), 4), p) for p in range(4)]
    assert shares == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [batch_share(hosts((1, 1, 4, 4), 4), p) for p in range(4)] == [(0, 1)] * 4
    with pytest.raises(UserError, match="overlapping examples.*process 0: blocks .0, 1."):
        batch_share(hosts((3, 1, 4, 1), 6), 0)  # process 0 has example block 0 and half of block 1


def test_two_processes():
    """Slices across processes, and batches that each process feeds, with seq inside and across
    processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    jobs = [subprocess.Popen([sys.executable, str(PROCESSES), port, str(i)], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT,
                             text=True) for i in range(2)]
    for job in jobs:
        out, _ = job.communicate(timeout=300)
        assert job.returncode == 0 and "all as it should be" in out, out
