"""TAVID's visual System: latents of one speaker's video from the reference, the face and all
speakers' units; or, with config.driver = "audio", Hallo2: from the speaker's own sound.

Three stages, one after the other, over one tree of parameters (`config.frozen(stage)` lists what
each leaves unchanged): appearance (single frames; Hallo2's stage 1), motion (the Motion Mapper and
its cross-attention; frames are still single), temporal (clips after their motion frames; Hallo2's
stage 2). v-prediction with zero terminal SNR throughout.

Suffixes: B rows, F frames, R = 1 + motion frames, h w C latents, U units, S streams, E face
embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.fields import plain
from avjax.flow import diffusion
from avjax.nn.layers import compute_dtype, uniform_fan_in
from avjax.nn.sequence import take_at
from avjax.sharding.activations import each_frame, fold_frames
from avjax.systems import api
from avjax.systems.api import Spec
from avjax.systems.tavid.mapper.rows import check_units
from avjax.systems.tavid.mapper.system import MAPPER_RULES
from avjax.systems.tavid.visual import sampler
from avjax.systems.tavid.visual.config import REGIONS, UNITS_A_FRAME, check, mask_size
from avjax.systems.tavid.visual.model import VisualNet
from avjax.systems.tavid.visual.rows import VisualRows

# Fully sharded over fsdp, tensor parallel over inner widths; what is narrow (latents, tokens,
# norms) is replicated
_NETS = r"(reference|denoiser)/"
NET_RULES = (
    (_NETS + r"inputs/kernel", (None, None, None, "fsdp")),
    (_NETS + r"outputs/kernel", (None, None, "fsdp", None)),
    (_NETS + r"time/(hidden|out|motion)/kernel", ("fsdp", "tensor")),
    (_NETS + r".*/(conv[12]|resize)/kernel", (None, None, "fsdp", "tensor")),
    (_NETS + r".*/(time|skip)/kernel", ("fsdp", "tensor")),
    (_NETS + r".*/(spatial|motion|temporal)/(inputs|outputs|zero_\w+)/kernel", ("fsdp", "tensor")),
    (_NETS + r".*/(self_attention|face_attention|attention\w*)/(q|out)/kernel", ("fsdp", "tensor")),
    (_NETS + r".*/(self_attention|face_attention|attention\w*)/kv/kernel",
     ("fsdp", None, "tensor")),
    (_NETS + r".*/feed_forward/inputs/kernel", ("fsdp", None, "tensor")),
    (_NETS + r".*/feed_forward/outputs/kernel", ("tensor", "fsdp")),
    (_NETS + r".*/(bias|scale)", ()),
    (r"image_projection/.*|windows/place|face_locator/.*", ()),
    (r"audio_projection/hidden[12]/kernel", ("fsdp", "tensor")),
    (r"audio_projection/project/kernel", ("fsdp", None, "tensor")),
    (r"audio_projection/.*/(bias|scale)", ()),
)
RATES = {"units": UNITS_A_FRAME, "audio": 1}  # of what drives, a frame


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("latents",)}
    param_rules = (*NET_RULES, *((f"mapper/{pattern}", axes) for pattern, axes in MAPPER_RULES))

    def __init__(self, config):
        check(config)
        self.config = c = FrozenConfigDict(config)
        self.net = VisualNet(c, compute_dtype(c.compute_dtype))
        self.schedule = diffusion.make_schedule(c.betas)
        self.rows = VisualRows(stage=c.stage, frames=c.frames, motion_frames=c.unet.motion_frames,
                               context=c.context, portrait_share=c.portrait_share,
                               start_share=c.start_share, num_units=c.mapper.num_units,
                               reference_margin=0 if c.stage == "temporal" else c.reference_margin,
                               streams=c.mapper.streams, driver=c.driver,
                               margin=c.audio.margin, shapes=tuple(shape_specs(c)))
        (self.batch_spec, self.example_spec, self.conditions_spec,
         self.streams_spec) = specs(c, self.rows.window)

    def init(self, key):
        """Fresh float32 parameters, the same tree in every stage. A motion transformer begins as
        the identity, so that stage motion starts from what stage appearance learnt: its last
        product is zero, and for the tokens to be felt at once the published zero products inside it
        are not (ours)."""
        c = self.config
        latents = jnp.zeros((1, 1 + c.unet.motion_frames, *c.latent_size, c.latent_dim))
        given = {name: jnp.zeros(spec.resolve(batch=1).shape)
                 for name, spec in shape_specs(c).items()}
        if c.driver == "units":
            given["units"] = jnp.zeros((1, 2, c.mapper.streams), jnp.int32)
        else:
            given["audio"] = jnp.zeros((1, 1, 2 * c.audio.margin + 1, c.audio.layers
                                        * c.audio.width))
        params = self.net.init(key, latents, given, jnp.zeros((1, c.face_width)))

        def begin(path, x):
            names = [entry.key for entry in path]
            if "motion" not in names or names[-1] != "kernel":
                return x
            if names[-2].startswith("zero_"):
                seed = sum(map(ord, "/".join(names)))
                return uniform_fan_in()(jax.random.fold_in(key, seed), x.shape)
            return jnp.zeros_like(x) if names[-2] == "outputs" and names[-3] == "motion" else x

        return jax.tree_util.tree_map_with_path(begin, params["params"])

    # training

    def draw(self, key, B: int) -> dict:
        """The random numbers of a step: times, noise, dropped conditions. Single frames have a time
        each, a clip has one."""
        c = self.config
        keys = jax.random.split(key, 9)
        F = c.frames
        single = c.stage != "temporal"
        shape = (B, F, *c.latent_size, c.latent_dim)
        t = jax.random.randint(keys[0], (B, F if single else 1), 0, self.schedule.steps)
        noise = diffusion.offset_noise(keys[1], shape, c.noise_offset,
                                       (2, 3) if single else (1, 2, 3))
        dropped = {name: jax.random.bernoulli(keys[2 + i], c.dropout[name], (B,))
                   for i,
                   name in enumerate(("reference", "face", "motion", "all", "motion_frames"))}
        out = {"t": t, "noise": noise}
        out |= {name: dropped[name] | dropped["all"] for name in ("reference", "face", "motion")}
        if not single:
            before = (B, c.unet.motion_frames, *shape[2:])
            time = jax.random.randint(keys[8], (B,), 0, max(c.motion_noise, 1))
            kept = jax.random.bernoulli(keys[7], 1 - c.motion_drop, (B, 1, *c.latent_size, 1))
            out |= {"motion_frames": dropped["motion_frames"], "before_t": time,
                    "before_kept": kept,
                    "before_noise": jax.random.normal(jax.random.fold_in(key, 9), before)}
        return out

    def loss(self, params, batch, key):
        """Min-SNR weighted squared error of the velocity."""
        return self.loss_at(params, batch, self.draw(key, len(batch["latents"])))

    def loss_at(self, params, batch, draw):
        """The loss for given randomness (`draw`). Metrics: "mse" of the clean latents that the
        velocity points at, "mse_noisy" over the noisier half of the times."""
        c = self.config
        variables = {"params": params}
        latents_BFhwC = batch["latents"].astype(jnp.float32)
        single = c.stage != "temporal"
        F = latents_BFhwC.shape[1]
        face = self.net.apply(variables, jnp.where(draw["face"][:, None], 0.0, batch["face"]),
                              method="face")
        motion = None if c.stage == "appearance" else self.motion(params, batch, draw["motion"])
        place = self.net.apply(variables, batch, method="place")
        pictures = batch["reference"][:, None]
        if not single:
            before = self.corrupt_motion_frames(batch["motion"], draw)
            pictures = jnp.concatenate([pictures, before], axis=1)
        banks = self.net.apply(variables, pictures, face, method="banks")
        sees = 1 - draw["reference"].astype(jnp.int32)
        x0 = latents_BFhwC
        noise = draw["noise"]
        t = draw["t"]
        reference = batch["reference"]
        if single:  # frames become rows of one frame
            x0, noise, motion = (None if x is None else fold_frames(x)[:, None]
                                 for x in (x0, noise, motion))
            banks, face, sees, reference, place = jax.tree.map(
                lambda x: each_frame(x, F), (banks, face, sees, reference, place))
        t = fold_frames(t)
        velocity = self.net.apply(variables, diffusion.q_sample(self.schedule, x0, noise, t),
                                  reference, t, banks, face, motion, sees, not single, place,
                                  method="velocity")
        error = jnp.square(velocity - diffusion.velocity_target(self.schedule, x0, noise, t))
        weights = self.cell_weights(latents_BFhwC)
        weighted = error * (fold_frames(weights)[:, None] if single else weights)
        axes = tuple(range(1, error.ndim))
        mse_N, weighted_N = jnp.mean(error, axis=axes), jnp.mean(weighted, axis=axes)
        # an error of the velocity is this much of one of the data
        variance_N = 1 - jnp.asarray(self.schedule.alphas)[t]
        if c.min_snr:
            weights_N = diffusion.min_snr_weights(self.schedule, t, c.min_snr)
        else:
            weights_N = variance_N if c.predicts == "data" else jnp.ones_like(variance_N)
        loss = jnp.mean(weights_N * weighted_N)
        mse_N = mse_N * variance_N
        noisy_N = (t >= self.schedule.steps // 2).astype(jnp.float32)
        noisy = jnp.sum(noisy_N * mse_N) / jnp.maximum(jnp.sum(noisy_N), 1.0)
        return loss, {"loss": loss, "mse": jnp.mean(mse_N), "mse_noisy": noisy}

    def motion(self, params, batch, dropped_B):
        """Motion tokens (B, F, M, K) of a batch's frames. Dropped, sound has tokens of zeros (as
        published), and units are those of nothing."""
        c = self.config
        variables = {"params": params}
        if c.driver == "audio":
            tokens = self.net.apply(variables, batch["audio"].astype(jnp.float32),
                                    method="audio_tokens")
            return jnp.where(dropped_B[:, None, None, None], 0.0, tokens)
        units = jnp.where(dropped_B[:, None, None], c.mapper.num_units, batch["units"])
        tokens = self.net.apply(variables, units, batch["units_length"], method="tokens")
        return take_at(tokens, batch["frame"])

    def cell_weights(self, latents_BFhwC):
        """(B, F, h, w, 1), mean 1 over a row: 1 + moving_weight * (a cell's deviation over the
        row's frames relative to the mean cell's, at most 4). A mouth is a few cells of hundreds."""
        c = self.config
        if not c.moving_weight or latents_BFhwC.shape[1] == 1:
            return jnp.ones((*latents_BFhwC.shape[:-1], 1))
        moves = jnp.mean(jnp.std(latents_BFhwC, axis=1, keepdims=True), axis=-1, keepdims=True)
        moves = jnp.minimum(moves / jnp.maximum(jnp.mean(moves, axis=(2, 3), keepdims=True), 1e-6),
                            4.0)
        weights = 1 + c.moving_weight * moves
        weights = weights / jnp.mean(weights, axis=(2, 3), keepdims=True)
        return jnp.broadcast_to(weights, (*latents_BFhwC.shape[:-1], 1))

    def corrupt_motion_frames(self, before_BRhwC, draw):
        """Motion frames as training sees them: with noise of a small time, cells dropped, and
        sometimes all zeros. The release does so to the pictures; latents are cached, so this is
        done to them (ours, equal noise level)."""
        x = jnp.where(draw["motion_frames"][:, None, None, None, None], 0.0,
                      before_BRhwC.astype(jnp.float32))
        if self.config.motion_noise:
            x = diffusion.q_sample(self.schedule, x, draw["before_noise"], draw["before_t"])
        return x * draw["before_kept"]

    # generation

    def conditions(self, example, task=""):
        """All speakers' units or sound, faces and portraits; nothing of the recorded video."""
        c = self.config
        if c.driver == "units":
            check_units(example["units"], c.mapper.num_units, c.mapper.streams,
                        f"example {example.get('id')!r}")
        driver = example[c.driver]
        first = np.zeros((c.mapper.streams, c.unet.motion_frames, *c.latent_size, c.latent_dim),
                         np.float32)
        return {c.driver: driver, f"{c.driver}_length": np.int32(len(driver)),
                "faces": example["faces"], "reference": example["reference"],
                "first_motion": first, "has_first": np.float32(0)} | {
                    name: example[name] for name in shape_specs(c)}, \
            len(driver) // RATES[c.driver]

    def generate(self, params, conditions, keys, task=""):
        """Latents of every speaker's video, clip after clip; see
        avjax.systems.tavid.visual.sampler."""
        return sampler.generate(self, params, conditions, keys)


def shape_specs(c) -> dict[str, Spec]:
    """Specs of the columns that say where the face lies in its reference, where the config has
    them looked at; of one speaker."""
    every = {"regions": Spec(("batch", *c.latent_size, len(REGIONS)), "float32",
                             f"weights of the regions {', '.join(REGIONS)} in the reference"),
             "face_mask": Spec(("batch", *mask_size(c)), "float32",
                               "where the face lies in the reference, 0 to 1")}
    wanted = {"regions": c.masks, "face_mask": bool(c.locator)}
    return {name: spec for name, spec in every.items() if wanted[name]}


def of_speakers(spec: Spec, speakers: int) -> Spec:
    """The same of every speaker."""
    return dataclasses.replace(spec, shape=("batch", speakers, *spec.shape[1:]), speaker_axis=1)


def specs(c, window: int):
    """batch_spec of the config's stage, example_spec, conditions_spec, streams_spec."""
    S = c.mapper.streams
    F = c.frames
    latent = (*c.latent_size, c.latent_dim)
    before = c.unet.motion_frames
    units = dict(dtype="int32", meaning="semantic units, the target speaker's first",
                 rate=UNITS_A_FRAME * c.frame_rate, recipe=plain(c.units_recipe),
                 speaker_axis=2)
    latents = dict(meaning="latents of the video", rate=c.frame_rate,
                   recipe=plain(c.latents_recipe))
    reference = dict(dtype="float32", meaning="latent of the reference picture",
                     recipe=plain(c.latents_recipe))
    faces = dict(dtype="float32", meaning="face embedding", recipe=plain(c.faces_recipe))
    length = Spec(("batch",), "int32", "how many are real")
    audio = dict(dtype="float16", meaning="frames of every layer of wav2vec 2.0",
                 rate=c.frame_rate, recipe=plain(c.audio_recipe))
    features = c.audio.layers * c.audio.width
    shapes = shape_specs(c)
    batch = {"latents": Spec(("batch", F, *latent), "float32", **latents, sequence=1),
             "reference": Spec(("batch", *latent), **reference),
             "face": Spec(("batch", c.face_width), **faces), **shapes}
    if c.stage != "appearance" and c.driver == "audio":
        batch["audio"] = Spec(("batch", F, 2 * c.audio.margin + 1, features), **audio, sequence=1)
    elif c.stage != "appearance":
        batch |= {"units": Spec(("batch", UNITS_A_FRAME * window, S), **units, sequence=1,
                                granularity=UNITS_A_FRAME),
                  "units_length": length,
                  "frame": Spec(("batch", F), "int32", "where the frames lie among the units' "
                                                       "frames", sequence=1)}
    if c.stage == "temporal":
        batch["motion"] = Spec(("batch", before, *latent), "float32",
                               "latents of the frames before")
    driver = (Spec(("batch", "units", S), **units) if c.driver == "units"
              else Spec(("batch", "time", S, features), **audio, speaker_axis=2))
    shapes = {name: of_speakers(spec, S) for name, spec in shapes.items()}
    example = {c.driver: driver,
               "latents": Spec(("batch", "time", S, *latent), "float16", **latents, speaker_axis=2),
               "faces": Spec(("batch", S, c.face_width), **faces, speaker_axis=1),
               "reference": Spec(("batch", S, *latent), **reference, speaker_axis=1), **shapes}
    conditions = {c.driver: driver, f"{c.driver}_length": length, "faces": example["faces"],
                  "reference": example["reference"],
                  "first_motion": Spec(("batch", S, before, *latent), "float32",
                                       "latents to continue from", speaker_axis=1),
                  "has_first": Spec(("batch",), "float32",
                                    "1 = continue from first_motion, 0 = begin at the reference"),
                  **shapes}
    streams = {"latents": Spec(("batch", "time", S, *latent), "float32", **latents, speaker_axis=2),
               "latents_length": length}
    return batch, example, conditions, streams
