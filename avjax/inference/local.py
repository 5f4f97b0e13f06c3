"""The devices that one process generates on."""

import jax
from jax.sharding import Mesh

from avjax.sharding.mesh import make_mesh


def local_mesh() -> Mesh | None:
    """All devices of this process along the axis data; None where there is one."""
    devices = jax.local_devices()
    return make_mesh({"data": -1}, devices) if len(devices) > 1 else None
