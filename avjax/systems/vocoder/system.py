"""BigVGAN as a System (Lee et al. 2023): log-mel to sound, trained against discriminators, which
take their turn first.

Suffixes: B batch, T time (mel frames), H hop, N = T H samples, M mel bands.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from avjax.codecs import bigvgan_network
from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems import api
from avjax.systems.api import Spec, Turn
from avjax.systems.vocoder import discriminators, generator, losses
from avjax.systems.vocoder.config import Config, least_segment


class System(api.System):
    """See avjax.systems.api.System. Holds a frozen config and no arrays."""

    makes = {"generate": ("audio",)}

    # the wide layers are sharded; the rest is a few million numbers
    param_rules = (
        (r"generator/resblocks_\d+/convs[12]_\d+/direction", (None, "fsdp", "tensor")),
        (r"generator/ups_\d+/direction", ("fsdp", "tensor", None)),
        (r"generator/conv_(pre|post)/direction", ()),
        (r"mpd/discriminators_\d+/convs_[234]/direction", (None, None, "fsdp", "tensor")),
        (r"mpd/discriminators_\d+/(convs_[01]|conv_post)/direction", ()),
        (r"(mrd|mbd|cqtd)/.*/(direction|kernel)", ()),
        (r".*/(scale|bias|alpha|beta)", ()),
    )

    def __init__(self, config):
        Config.check(config)
        self.config = c = FrozenConfigDict(config)
        self.net, self.recipe = generator.network(c), generator.mel_recipe(c)
        hop = self.recipe["hop"]
        rate = c.sample_rate / hop
        audio = Spec(("batch", "time", hop), "float32", "sound, a mel frame's samples side by side",
                     rate=rate)
        log_mel = Spec(("batch", "time", c.bands), "float32", "log-mel of that sound", rate=rate,
                       recipe=self.recipe)
        mask = Spec(("batch", "time"), "float32", "1 = real frame, 0 = padding", rate=rate)
        self.example_spec = {"audio": audio} | ({"mel": log_mel} if c.mel == "features" else {})
        self.batch_spec = self.example_spec | {"mask": mask}
        self.conditions_spec = {"mel": log_mel, "mask": mask}
        self.streams_spec = {"audio": audio}
        judges = Turn("discriminators", tuple(c.discriminators), c.adversarial_from)
        self.turns = ((judges,) if c.discriminators else ()) + (Turn("generator", ("generator",)),)

    def init(self, key):
        """Fresh float32 parameters: {"generator", and each discriminator}."""
        keys = jax.random.split(key, 1 + len(self.config.discriminators))
        made = generator.init(self.net, keys[0])
        if self.config.start == "normalised":
            made = generator.normalised(made)
        return {"generator": made} | {
            name: discriminators.init(name, self.config, k, samples=8192)
            for name, k in zip(self.config.discriminators, keys[1:], strict=True)}

    # ---- training

    def shared(self, params, batch, key):
        """(true, made) sound (B, N) of the batch's segments."""
        del key  # nothing is random
        c, mask_BT1 = self.config, batch["mask"][..., None]
        frames = mask_BT1.shape[1]
        if frames < least_segment(c):
            raise UserError("segments are too short for the losses", where="config.data.segment",
                            expected=f">= {least_segment(c)} frames", found=str(frames))
        true_BN = (batch["audio"] * mask_BT1).reshape(len(mask_BT1), -1)
        if c.peak:
            peak_B1 = jnp.abs(true_BN).max(axis=1, keepdims=True)
            true_BN = true_BN * (c.peak / jnp.where(peak_B1 > 1e-9, peak_B1, c.peak))
        mel_BTM = (mel.log_mel(true_BN, self.recipe) if c.mel == "sound" else
                   jnp.where(mask_BT1 > 0, batch["mel"], mel.FLOOR))
        return true_BN, self.sound(params, mel_BTM)

    def sound(self, params, mel_BTM):
        """(B, T, M) log-mel -> (B, N) samples."""
        folded = generator.folded(self.net, params["generator"])
        return bigvgan_network.generator(self.net, folded, mel_BTM)

    def turn_loss(self, turn, params, shared, batch, key, step):
        """See avjax.systems.api.System."""
        del batch, key
        true_BN, made_BN = shared
        if turn == "discriminators":
            return self._telling(params, true_BN, jax.lax.stop_gradient(made_BN))
        distance = self._mel_distance(true_BN, made_BN)
        loss, metrics = self.config.mel_weight * distance, {"mel": distance}
        if self.config.discriminators:
            def judged():
                return self._fooling(params, true_BN, made_BN)

            begins = self.config.adversarial_from
            fooling, matching = judged() if not begins else jax.lax.cond(
                step >= begins, judged, lambda: (jnp.zeros(()), jnp.zeros(())))
            loss += fooling + self.config.feature_weight * matching
            metrics |= {"fooling": fooling, "features": matching}
        return loss, metrics | {"loss": loss}

    def _telling(self, params, true_BN, made_BN):
        metrics = {}
        for name in self.config.discriminators:
            real, made = (discriminators.judge(name, self.config, params[name], x)[0]
                          for x in (true_BN, made_BN))
            metrics[f"{name}_telling"] = losses.telling(real, made)
        return sum(metrics.values()), metrics

    def _fooling(self, params, true_BN, made_BN):
        fooling = matching = jnp.zeros(())
        for name in self.config.discriminators:
            answers, made = discriminators.judge(name, self.config, params[name], made_BN)
            _, real = discriminators.judge(name, self.config, params[name], true_BN)
            fooling += losses.fooling(answers)
            matching += losses.matching(real, made)
        return fooling, matching

    def _mel_distance(self, true_BN, made_BN):
        c = self.config
        if c.mel_scales == "seven":
            return sum(losses.mel_distances(true_BN, made_BN, c.sample_rate, c.silence))
        whole_band = self.recipe | {"fmax": c.sample_rate / 2}  # as published, whatever is read
        return losses.mel_distance(true_BN, made_BN, whole_band)

    def loss(self, params, batch, key):
        """The generator's loss with all its terms, and the discriminators' as metrics: what is
        held out. A step minimises them in turns."""
        shared = self.shared(params, batch, key)
        late = jnp.int32(self.config.adversarial_from)
        metrics = {}
        for turn in self.turns:
            loss, found = self.turn_loss(turn.name, params, shared, batch, key, late)
            metrics |= found
        return loss, metrics | {"loss": loss}

    # ---- generation

    def conditions(self, example, task=""):
        """The mel of the features; of sound without mel its own."""
        log_mel = example.get("mel")
        if log_mel is None:
            log_mel = mel.log_mel(np.asarray(example["audio"], np.float32).ravel(), self.recipe)
        return {"mel": log_mel}, len(log_mel)

    def generate(self, params, conditions, keys, task=""):
        """Sound of mel; nothing random, so `keys` is not read. A signal ends where its mask does,
        so that padding changes nothing."""
        del keys, task
        mel_BTM, mask_BT1 = conditions["mel"], conditions["mask"][..., None]
        folded = generator.folded(self.net, params["generator"])
        frames_B = mask_BT1.sum((1, 2)).astype(jnp.int32)
        audio_BN = jax.vmap(lambda log_mel_TM, frames: bigvgan_network.generator(
            self.net, folded, log_mel_TM[None], frames)[0])(mel_BTM, frames_B)
        return {"audio": audio_BN.reshape(*mel_BTM.shape[:2], -1) * mask_BT1}
