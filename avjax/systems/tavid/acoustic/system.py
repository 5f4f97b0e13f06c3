"""TAVID's acoustic denoiser as a System: every speaker's units and voice -> that speaker's own
clean mel.

Speakers of a dialogue are rows of the network's batch; each sees the others' units as a condition.
Suffixes: B dialogues, S speakers, T mel frames, N units, M mel bands, V voice, P = S - 1 partners,
R = B S rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.fields import plain
from avjax.flow.path import interpolate
from avjax.nn.layers import compute_dtype
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid.acoustic import sampler
from avjax.systems.tavid.acoustic.config import check
from avjax.systems.tavid.acoustic.expand import UNIT_RATE, expand, mel_frames
from avjax.systems.tavid.acoustic.model import AcousticNet
from avjax.systems.tavid.acoustic.rows import AcousticRows, check_units
from avjax.systems.tavid.acoustic.usdm import VoiceboxNet
from avjax.systems.tavid.joining import joined, later

NEAR = 0.05
NETWORKS = {"dit": AcousticNet, "usdm": VoiceboxNet}


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("mel",)}

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = NETWORKS[c.block](c, compute_dtype(c.compute_dtype))
        self.example_spec, self.batch_spec, self.conditions_spec, self.streams_spec = specs(c)
        self.rows = AcousticRows(c.row_frames, c.num_units, voices=c.voice_dim > 0)

    # Fully sharded over fsdp; tensor parallel over heads and hidden units. Layers are stacked on
    # the first axis.
    param_rules = (
        (r"inputs/embedding", (None, "fsdp")),
        # its rows are odd widths (units, mel, given mel)
        (r"inputs/(project|partner)/kernel", (None, "fsdp")),
        (r"positions/convs_\d+/kernel", (None, None, "fsdp")),
        (r"time_embed/(hidden|out)/kernel", (None, "fsdp")),
        (r"voice/project/kernel", (None, "fsdp")),
        (r"blocks/qkv/kernel", (None, "fsdp", None, "tensor", None)),
        (r"blocks/qkv/bias", (None, None, "tensor", None)),
        (r"(down|up)/(query|key|value)/kernel", (None, "fsdp", "tensor", None)),
        (r"(down|up)/(query|key|value)/bias", (None, "tensor", None)),
        (r"(blocks|down|up)/(project|mlp_out)/kernel", (None, "tensor", "fsdp")),
        (r"(blocks|down|up)/mlp_in/kernel", (None, "fsdp", "tensor")),
        (r"(blocks|down|up)/mlp_in/bias", (None, "tensor")),
        (r"blocks/(attention|mlp)_adaln/linear/kernel", (None, "fsdp", None, "tensor")),
        (r"blocks/(attention|mlp)_adaln/linear/bias", (None, None, "tensor")),
        (r"up/skip/kernel", (None, "fsdp", None)),
        (r"modulation/kernel", ("fsdp", None, "tensor")),
        (r"outputs/kernel", ("fsdp", None)),
        (r"(inputs/project|positions/convs_\d+|time_embed/(hidden|out)|voice/project"
         r"|(blocks|down|up)/(project|mlp_out)|up/skip|modulation|outputs)/bias|voice/nobody"
         r"|(norm|(down|up)/(attention|mlp)_norm)/(scale|bias)", ()),
    )

    def init(self, key):
        """Fresh float32 parameters."""
        c = self.config
        given = self.given(jnp.zeros((1, 2, c.num_speakers), jnp.int32), None, jnp.ones((1, 2)))
        rows = c.num_speakers
        return self.net.init(key, jnp.zeros((rows, 2, c.mel_dim)), jnp.zeros((rows,)),
                             given)["params"]

    def given(self, units_BTS, voices_BSV, mask_BT, prompt_BTSM=None):
        """The conditions of each speaker's row (see AcousticNet), R rows in the order of
        (dialogue, speaker).
        None: no voices, nothing given of the answer."""
        B, T, S = units_BTS.shape
        known_R = jnp.full((B * S,), float(voices_BSV is not None))
        if voices_BSV is None:
            voices_BSV = jnp.zeros((B, S, self.config.voice_dim))
        others = np.array([[(s + i) % S for i in range(1, S)] for s in range(S)],
                          np.int32).reshape(S, S - 1)
        partner_BTSP = units_BTS[:, :, others]
        if prompt_BTSM is None:
            prompt_BTSM = jnp.zeros((B, T, S, self.config.mel_dim), jnp.float32)
        return {"units": to_rows(units_BTS), "partner": to_rows(partner_BTSP),
                "prompt": to_rows(prompt_BTSM),
                "voice": jnp.reshape(voices_BSV, (B * S, self.config.voice_dim)), "known": known_R,
                "valid": jnp.repeat(mask_BT, S, axis=0)}

    def without(self, given, *, units=False, partner=False, voice=False, prompt=False):
        """`given` less what is True, or True for some rows (R,)."""
        def gone(which, x, value):
            which = jnp.broadcast_to(jnp.asarray(which),
                                     x.shape[:1]).reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.where(which, value, x)

        return given | {"units": gone(units, given["units"], self.config.num_units),
                        "partner": gone(partner, given["partner"], self.config.num_units),
                        "known": gone(voice, given["known"], 0.0),
                        "prompt": gone(prompt, given["prompt"], 0.0)}

    def velocity(self, params, x_RTM, t_R, given):
        """The network's velocity."""
        out_RTM = self.net.apply({"params": params}, x_RTM, t_R, given)
        if self.config.predict == "velocity":
            return out_RTM
        return self.towards(out_RTM, x_RTM, t_R) * given["valid"][..., None]

    def towards(self, x1_RTM, x_RTM, t_R):
        """The velocity from x at t to x1 (`interpolate` solved for the noise); the time left is
        taken to be at least NEAR, as its reciprocal weighs the errors (Li and He 2025)."""
        slope = 1 - self.config.sigma
        return (x1_RTM - slope * x_RTM) / jnp.maximum(1 - slope * t_R, NEAR)[:, None, None]

    def loss(self, params, batch, key, voices=None):
        """Flow-matching loss of all speakers of a batch, each with its own time, noise and dropped
        conditions.

        `voices` (B, S, V) takes the place of batch["voices"]: embeddings that a speaker mapper
        predicts (stage S7).
        """
        c = self.config
        keys = jax.random.split(key, 8)
        x1_RTM = to_rows(batch["mel"].astype(jnp.float32))
        R = x1_RTM.shape[0]
        x0_RTM = jax.random.normal(keys[0], x1_RTM.shape, jnp.float32)
        # one uniform number, then equal distances: each t is uniform, and a batch covers [0, 1]
        # (Kingma et al. 2021)
        t_R = (jax.random.uniform(keys[1], ()) + jax.random.permutation(keys[7], R) / R) % 1.0
        given = self.given(batch["units"], batch.get("voices") if voices is None else voices,
                           batch["mask"])
        nothing_R = jax.random.bernoulli(keys[2], c.drop_all, (R,))

        def dropped(key, rate):
            return nothing_R | jax.random.bernoulli(key, rate, (R,))

        if c.prompt:
            open_RT = missing_span(keys[3], given["valid"], c.mask_least)
            free_R = dropped(keys[4], c.drop_prompt)
            open_RT = jnp.where(free_R[:, None], 1.0, open_RT)
            given = given | {"prompt": x1_RTM * (1 - open_RT)[..., None]}
        else:
            open_RT = jnp.ones(given["valid"].shape)
        k_units, k_voice, k_partner = jax.random.split(keys[5], 3)
        given = self.without(given, units=dropped(k_units, c.drop_units),
                             voice=dropped(k_voice, c.drop_voice),
                             partner=dropped(k_partner, c.drop_partner))
        return self.loss_at(params, x0_RTM, x1_RTM, t_R, given, open_RT)

    def loss_at(self, params, x0_RTM, x1_RTM, t_R, given, open_RT):
        """Squared error of the velocity over the frames to be filled in (`open`), for given noise
        and times."""
        sigma = self.config.sigma
        xt_RTM = interpolate(x0_RTM, x1_RTM, t_R, sigma)
        if self.config.predict == "velocity":
            target_RTM = x1_RTM - (1 - sigma) * x0_RTM
        else:
            target_RTM = self.towards(x1_RTM, xt_RTM, t_R)
        error_RT = jnp.mean(jnp.square(self.velocity(params, xt_RTM, t_R, given) - target_RTM),
                            axis=-1)
        counted_RT = open_RT * given["valid"]
        frames = jnp.maximum(jnp.sum(counted_RT), 1.0)
        loss = jnp.sum(error_RT * counted_RT) / frames
        return loss, {"loss": loss, "weight": frames}

    def conditions(self, example, task=""):
        """Units and voices of all speakers; nothing of the answer is given."""
        c, units = self.config, check_units(example["units"], self.config.num_units,
                                            f"example {example.get('id', '')!r}")
        out = {"units": units, "units_length": np.int32(len(units))}
        if c.voice_dim:
            out["voices"] = np.asarray(example["voices"], np.float32)
        if c.prompt:
            out |= {"prompt": np.zeros((0, c.num_speakers, c.mel_dim), np.float32),
                    "prompt_length": np.int32(0)}
        return out, mel_frames(len(units))

    def generate(self, params, conditions, keys, task=""):
        """{"mel" (B, T, S, M), "mel_length" (B,)} for units (B, N, S), units_length (B,) and voices
        (B, S, V); keys (B,).

        Optional prompt (B, T', S, M) and prompt_length (B,): mel frames that the answer begins
        with, whose units are the first of `units`. Frames behind the length come out as zeros.
        """
        c = self.config
        units_BTS = expand(jnp.asarray(conditions["units"]), axis=1)
        B, T, S = units_BTS.shape
        length_B = mel_frames(conditions["units_length"])
        mask_BT = (jnp.arange(T) < length_B[:, None]).astype(jnp.float32)
        prompt_BTSM = is_prompt = None
        if c.prompt and conditions.get("prompt") is not None:
            is_prompt = jnp.arange(T) < jnp.minimum(conditions["prompt_length"], length_B)[:, None]
            is_prompt = is_prompt[..., None, None]
            prompt_BTSM = jnp.where(is_prompt, fit(conditions["prompt"], T), 0.0)
        given = self.given(units_BTS, conditions.get("voices"), mask_BT, prompt_BTSM)

        def velocity(x_BTSM, t):
            v_RTM = self.guided(params, to_rows(x_BTSM), jnp.full((B * S,), t), given)
            return from_rows(v_RTM, S)

        def draw(number):
            return sampler.noise(keys, number, T, S, c.mel_dim)

        x_BTSM = sampler.sample(velocity, draw, steps=c.steps, solver=c.solver, sigma=c.sigma,
                                temperature=c.temperature,
                                prompt=prompt_BTSM, is_prompt=is_prompt)
        return {"mel": x_BTSM * mask_BT[..., None, None], "mel_length": length_B.astype(jnp.int32)}

    def go_on(self, params, conditions, keys):
        """`generate` of units that follow others: of the conditions heard (B, H, S), heard_length
        (B,) and, looked at with config.prompt, heard_mel (B, T', S, M) the first `heard_length`
        units and their frames are real. One frame more than of the units alone: where they begin is
        no frame's begin."""
        heard_B, units_BNS = conditions["heard_length"], conditions["units"]
        before_B = mel_frames(heard_B)
        given = {name: conditions[name] for name in self.conditions_spec if name in conditions}
        out = self.generate(params, given | {
            "prompt": conditions["heard_mel"], "prompt_length": before_B,
            "units": joined(conditions["heard"], heard_B, units_BNS),
            "units_length": conditions["units_length"] + heard_B}, keys)
        frames = mel_frames(units_BNS.shape[1]) + 1
        return {"mel": later(out["mel"], before_B, frames), "mel_length": out["mel_length"]
                - before_B}

    def guided(self, params, x_RTM, t_R, given):
        """v_none + guidance_units (v_units - v_none) + guidance_voice (v_all - v_units); `units`
        sees all speakers' units, `all` the voice and the given mel too. Terms whose weight is zero
        are not computed; the rest are one batch."""
        c = self.config
        terms = ((1 - c.guidance_units, self.without(given, units=True, partner=True, voice=True,
                                                     prompt=True)),
                 (c.guidance_units - c.guidance_voice,
                  self.without(given, voice=True, prompt=True)),
                 (c.guidance_voice, given))
        terms = [(weight, one) for weight, one in terms if weight]
        n = len(terms)
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(one for _, one in terms))
        v = self.velocity(params, jnp.tile(x_RTM, (n, 1, 1)), jnp.tile(t_R, n), together)
        return sum(weight * part for (weight, _), part in zip(terms, jnp.split(v, n), strict=True))


def to_rows(x_BTS):
    """(B, T, S, ...) -> (B S, T, ...)."""
    x = jnp.moveaxis(jnp.asarray(x_BTS), 2, 1)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # partners of one speaker are empty


def from_rows(x_RTM, speakers: int):
    """(B S, T, M) -> (B, T, S, M)."""
    return jnp.moveaxis(x_RTM.reshape(-1, speakers, *x_RTM.shape[1:]), 1, 2)


def fit(x_BT, frames: int):
    """Cut or padded with zeros to `frames`."""
    x_BT = jnp.asarray(x_BT)[:, :frames]
    return jnp.pad(x_BT, [(0, 0), (0, frames - x_BT.shape[1])] + [(0, 0)] * (x_BT.ndim - 2))


def missing_span(key, valid_RT, least: float):
    """1 on a random span of U(least, 1) of each row's real frames, 0 elsewhere, (R, T)."""
    share_key, start_key = jax.random.split(key)
    length_R = valid_RT.sum(1)
    span_R = length_R * jax.random.uniform(share_key, length_R.shape, minval=least, maxval=1.0)
    start_R = jax.random.uniform(start_key, length_R.shape) * (length_R - span_R)
    frame_T = jnp.arange(valid_RT.shape[1])
    return ((frame_T >= start_R[:, None]) & (frame_T
                                             < (start_R + span_R)[:, None])).astype(jnp.float32)


def specs(c) -> tuple[dict[str, Spec], ...]:
    """example_spec, batch_spec, conditions_spec and streams_spec of a config."""
    S, rate = c.num_speakers, mel.FRAME_RATE
    text = "normalised log-mel of each speaker's own channel"
    unit = (f"(x - {c.mel_recipe['mean']}) / {c.mel_recipe['std']}" if c.mel_recipe is not None
            else "")
    stream = Spec(("batch", "time", S, c.mel_dim), "float32", text, unit, rate,
                  plain(c.mel_recipe), speaker_axis=2)
    units = dict(dtype="int32", meaning="semantic units of each speaker",
                 recipe=plain(c.units_recipe), speaker_axis=2)
    voice = {"voices": Spec(("batch", S, c.voice_dim), "float32", "who speaks",
                            recipe=plain(c.voices_recipe), speaker_axis=1)}
    voice = voice if c.voice_dim else {}
    at_50 = Spec(("batch", "units", S), rate=UNIT_RATE, **units)
    example = {"units": at_50, "mel": stream} | voice
    batch = {"units": Spec(("batch", c.row_frames, S), rate=rate, **units, sequence=1),
             "mel": Spec(("batch", c.row_frames, S, c.mel_dim), "float32", text, unit, rate,
                         plain(c.mel_recipe), sequence=1, speaker_axis=2),
             "mask": Spec(("batch", c.row_frames), "float32", "1 = real frame, 0 = padding", "",
                          rate, sequence=1)} | voice
    conditions = {"units": at_50,
                  "units_length": Spec(("batch",), "int32", "units that exist")} | voice
    if c.prompt:
        conditions |= {"prompt": Spec(("batch", "prompt", S, c.mel_dim), "float32",
                                      "mel frames the answer begins with", unit,
                                      rate, plain(c.mel_recipe), speaker_axis=2),
                       "prompt_length": Spec(("batch",), "int32", "given mel frames")}
    return example, batch, conditions, {"mel": stream,
                                        "mel_length": Spec(("batch",), "int32", "mel frames")}
