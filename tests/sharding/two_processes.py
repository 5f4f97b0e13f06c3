"""One of two processes with four fake devices each: `python two_processes.py PORT PROCESS`. Run by
test_mesh.py."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from avjax.errors import UserError  # noqa: E402
from avjax.sharding.mesh import batch_shardings, batch_share, make_mesh, put_batch  # noqa: E402
from avjax.systems.api import Spec  # noqa: E402

SPECS = {"x": Spec(("batch", "time", 3), "float32", ""), "who": Spec(("batch", 2), "float32", "")}


def across_slices():
    """Processes stand for slices: the outer half of an axis over DCN is one process, the other the
    other."""
    for dcn, axis in ((dict(data=2), 0), (dict(fsdp=2), 1)):
        mesh = make_mesh(dict(data=1, fsdp=2, seq=2), dcn=dcn)
        owners = np.vectorize(lambda device: device.process_index)(np.moveaxis(mesh.devices, axis,
                                                                               0))
        half = len(owners) // 2
        assert (owners[:half] == 0).all() and (owners[half:] == 1).all(), owners
    try:
        make_mesh(dict(data=-1), dcn=dict(data=4))
    except UserError as error:
        assert "number of processes" in str(error)
    else:
        raise AssertionError("four slices of two processes")


def feeding(sizes, dcn=None):
    """Every process puts its share of one batch; the global arrays are that batch."""
    mesh = make_mesh(sizes, dcn=dcn)
    share, shares = batch_share(mesh)
    whole = {"x": np.arange(8 * 16 * 3, dtype=np.float32).reshape(8, 16, 3),
             "who": np.arange(16, dtype=np.float32).reshape(8, 2)}
    rows = 8 // shares
    mine = {name: value[share * rows:(share + 1) * rows] for name, value in whole.items()}
    placed = put_batch(mine, batch_shardings(mesh, SPECS, time=16))
    for name, value in whole.items():
        assert placed[name].shape == value.shape
        for shard in placed[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, value[shard.index])
    with jax.set_mesh(mesh):
        total = jax.jit(lambda batch: batch["x"].sum() + batch["who"].sum())(placed)
    assert float(total) == whole["x"].sum() + whole["who"].sum()
    return shares


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    across_slices()
    assert feeding(dict(data=2, seq=2), dcn=dict(data=2)) == 2
    assert feeding(dict(data=4, seq=2)) == 2
    # seq across processes: both read all examples, each keeps half of their time
    assert feeding(dict(data=1, seq=8)) == 1
    assert feeding(dict(data=1, fsdp=2, tensor=4)) == 2
    print("all as it should be")
