"""Where the regions of a face lie, at every level of the denoiser.

A map is one for a video: of the reference, soft, 0 to 1, and widened so that the face stays inside
while it moves. Suffixes: B rows, h w positions, P = 3 regions of the column, R regions looked at.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from einops import reduce

from avjax.systems.tavid.visual.config import REGIONS


def levels(maps_BhwP, wanted: Sequence[str], patch: int, count: int):
    """Maps at the latents' size, all of REGIONS -> for each level of the net (B, 1, positions, R)
    of the wanted regions: means over the cells of a position. A lip of a few pixels keeps its
    weight's sum, where Hallo2 resizes the picture's mask for each level anew."""
    chosen = np.array([REGIONS.index(name) for name in wanted])
    x_BhwR = _halved(jnp.take(maps_BhwP.astype(jnp.float32), chosen, axis=-1), patch)
    out = []
    for _ in range(count):
        out.append(x_BhwR.reshape(len(x_BhwR), 1, -1, x_BhwR.shape[-1]))
        x_BhwR = _halved(x_BhwR, 2) if len(out) < count else x_BhwR
    return tuple(out)


def _halved(x_BhwR, factor: int):
    return reduce(x_BhwR, "B (h a) (w b) R -> B h w R", "mean", a=factor, b=factor)
