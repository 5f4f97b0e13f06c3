"""The Motion Mapper trained alone: what the self channel's pictures show, regressed from the units
of all channels.

Warm start of the visual System (its `mapper/` parameters begin from here), and the vehicle of the
ablation joint | dual | concat. Ours by choice; the paper does not say how the mapper begins.

Suffixes: B batch, U units (50 Hz), T frames (25 Hz), S streams, M target width.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.fields import plain
from avjax.nn.layers import Dense, compute_dtype
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid.joining import joined, later
from avjax.systems.tavid.mapper.config import Net, check
from avjax.systems.tavid.mapper.net import MotionMapper, each_speaker_first
from avjax.systems.tavid.mapper.rows import UNITS_A_FRAME, MapperRows, check_units

# the mapper's parameters under `prefix`, fully sharded over fsdp; tensor parallel over heads and
# hidden units
_BLOCK = (
    (r"\w+/qkv_\d+/kernel", ("fsdp", None, "tensor", None)),
    (r"\w+/qkv_\d+/bias", (None, "tensor", None)),
    (r"\w+/project_\d+/kernel", ("tensor", "fsdp")),
    (r"\w+/mlp_in/kernel", ("fsdp", "tensor")),
    (r"\w+/mlp_in/bias", ("tensor",)),
    (r"\w+/mlp_out/kernel", ("tensor", "fsdp")),
    (r"\w+/(project_\d+|mlp_out)/bias", ()),
    (r"\w+/(norms_\d+|mlp_norm|[qk]_norm_\d+)/(scale|bias)", ()),
)
MAPPER_RULES = (
    (r"stem/rows", ()),  # num_units + 1 rows divide by nothing, and are read in part
    (r"(stem/project|join)/kernel", (None, "fsdp")),
    (r"(stem/project|join)/bias", ()),
    (r"stem/resample/kernel", ("fsdp", "tensor")),
    (r"stem/resample/bias", ("tensor",)),
    # stacked: a leading layer axis
    *((f"blocks/{pattern}", (None, *axes) if axes else ()) for pattern, axes in _BLOCK),
    *((f"last/{pattern}", axes) for pattern, axes in _BLOCK),
    (r"norm/(scale|bias)", ()),
    (r"role", ()),
    (r"out/kernel", ("fsdp", None, "tensor")),
    (r"out/bias", (None, "tensor")),
)


class Regressor(nn.Module):
    """The mapper and, with config.head, one linear layer from a frame's tokens to the target."""

    config: Net
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        self.mapper = MotionMapper(c, self.dtype)
        if c.head == "linear":
            self.head = Dense(c.target_dim, c.tokens * c.token_dim, init_scale=c.init_scale)

    def __call__(self, units_BUS, length_B=None):
        """-> (B, T, M) float32 of stream 0."""
        tokens_BTMW = self.mapper(units_BUS, length_B)
        tokens = tokens_BTMW.astype(jnp.float32).reshape(*tokens_BTMW.shape[:2], -1)
        return self.head(tokens) if self.config.head == "linear" else tokens


class System(api.System):
    """See avjax.systems.api.System."""

    makes = {"generate": ("motion",)}
    param_rules = (*((f"mapper/{pattern}", axes) for pattern, axes in MAPPER_RULES),
                   (r"head/kernel", ("fsdp", None)), (r"head/bias", ()))

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = Regressor(c, compute_dtype(c.compute_dtype))
        self.rows = MapperRows(segment=c.segment, num_units=c.num_units, streams=c.streams,
                               target=c.target)
        self.makes = {"generate": (c.target,)}
        self.batch_spec, self.example_spec, self.conditions_spec, self.streams_spec = specs(c)

    def init(self, key):
        """Fresh float32 parameters {"mapper"} and, with config.head, {"head"}."""
        return self.net.init(key, jnp.zeros((1, 2, self.config.streams), jnp.int32))["params"]

    def loss(self, params, batch, key):
        """Smooth L1 over all streams, each in turn as stream 0; mean over real frames."""
        c = self.config
        units_BUS = each_speaker_first(batch["units"])
        if c.unit_dropout:  # a partner that is not there
            hidden = jax.random.bernoulli(key, c.unit_dropout,
                                          (len(units_BUS), 1, c.streams)).at[..., 0].set(False)
            units_BUS = jnp.where(hidden, c.num_units, units_BUS)
        length_B = jnp.sum(batch["mask"], axis=1).astype(jnp.int32)
        repeated = jnp.repeat(length_B, c.streams) * UNITS_A_FRAME
        made_BTM = self.net.apply({"params": params}, units_BUS, repeated)
        wanted_BTM = jnp.moveaxis(batch[c.target], 2, 1).reshape(made_BTM.shape).astype(jnp.float32)
        error = jnp.abs(made_BTM - wanted_BTM)
        smooth = jnp.where(error < c.smooth, 0.5 * error**2 / c.smooth, error - 0.5 * c.smooth)
        mask_BT1 = jnp.repeat(batch["mask"], c.streams, axis=0)[..., None]
        frames = jnp.maximum(jnp.sum(mask_BT1), 1.0) * c.target_dim
        loss = jnp.sum(smooth * mask_BT1) / frames
        return loss, {"loss": loss, "l1": jnp.sum(error * mask_BT1) / frames}

    def conditions(self, example, task=""):
        """The units of all streams."""
        units = check_units(example["units"], self.config.num_units, self.config.streams,
                            f"example {example.get('id')!r}")
        return {"units": units, "units_length": np.int32(len(units))}, len(units) // UNITS_A_FRAME

    def generate(self, params, conditions, keys, task=""):
        """The target of every stream; nothing random, so `keys` is not read. Optional conditions
        heard (B, H, S) and heard_length (B,), whole frames: units of all speakers before."""
        del keys
        c = self.config
        units_BUS, length_B = conditions["units"], conditions["units_length"]
        (B, U, S), heard_B = units_BUS.shape, conditions.get("heard_length")
        if heard_B is not None:
            units_BUS = joined(conditions["heard"], heard_B, units_BUS)
            length_B = length_B + heard_B
        made = self.net.apply({"params": params}, each_speaker_first(units_BUS),
                              jnp.repeat(length_B, S))
        made_BTSM = jnp.moveaxis(made.reshape(B, S, -1, c.target_dim), 1, 2)
        if heard_B is not None:
            made_BTSM = later(made_BTSM, heard_B // UNITS_A_FRAME, U // UNITS_A_FRAME)
        return {c.target: made_BTSM,
                f"{c.target}_length": conditions["units_length"] // UNITS_A_FRAME}


def specs(c):
    """batch_spec, example_spec, conditions_spec, streams_spec."""
    units = dict(dtype="int32", meaning="semantic units of every speaker", rate=UNITS_A_FRAME
                 * c.frame_rate, recipe=plain(c.units_recipe), speaker_axis=2)
    target = dict(dtype="float32", meaning="what the pictures of every speaker show",
                  rate=c.frame_rate, speaker_axis=2)
    F, S, M = c.segment, c.streams, c.target_dim
    length = Spec(("batch",), "int32", "how many are real")
    batch = {"units": Spec(("batch", UNITS_A_FRAME * F, S), **units, sequence=1,
                           granularity=UNITS_A_FRAME),
             c.target: Spec(("batch", F, S, M), **target, sequence=1),
             "mask": Spec(("batch", F), "float32", "1 = real frame, 0 = padding", rate=c.frame_rate,
                          sequence=1)}
    stream = Spec(("batch", "time", S, M), **target)
    # tokens are many, so stored in 16 bits
    stored = dataclasses.replace(stream, dtype="float16") if c.head == "none" else stream
    example = {"units": Spec(("batch", "units", S), **units), c.target: stored}
    conditions = {"units": example["units"], "units_length": length}
    return batch, example, conditions, {c.target: stream, f"{c.target}_length": length}
