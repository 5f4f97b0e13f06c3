"""The mel that a trained system makes of clips, in their own timing: what a vocoder is fine-tuned
on, so that it hears in training what it will hear in use."""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from avjax.codecs import bigvgan
from avjax.errors import UserError
from avjax.inference.generator import Generator
from avjax.signal import level, mel
from avjax.systems import api
from data_pipelines import decode
from data_pipelines.loading.loader import check_recipes
from data_pipelines.store import dataset as store

SLACK = 3  # frames by which a generated mel may be longer or shorter than the sound


class Model:
    """A trained system and the features that it generates from.

    Args:
      workdir: of its training.
      data: a feature dataset of the same clips (by id); None = the one it was trained on.
      recipe: the mel that is wanted.
      seed: of its noise.

    Raises UserError where there is no checkpoint, no dataset, or the system makes no such mel.
    """

    def __init__(self, workdir: str, data: str | None, recipe: dict, seed: int):
        from avjax.checkpoint import loading  # which imports Orbax: a second

        meta = loading.load_meta(workdir)
        self.workdir, config = workdir, meta["config"]
        self.system = api.build(ConfigDict(config["system"]))
        self.params = loading.load_params(workdir, self.system)
        self.decoder = decode.Decoder.from_workdir(workdir, vocoder="griffin-lim")
        made_mel = self.decoder.family.mel_recipe
        if not made_mel or bigvgan.mel_hash(made_mel) != bigvgan.mel_hash(recipe):
            raise UserError("this system makes another mel", where=f"--generated={workdir}",
                            expected=bigvgan.mel_hash(recipe),
                            found=bigvgan.mel_hash(made_mel) if made_mel else "none",
                            hint="pick the --mel that it makes")
        self._level = self.decoder.recipes.get("mel", {}).get("level")
        mixture = config["data"].get("mixture") or ((config["data"]["dir"],),)
        folder = data or str(mixture[0][0]).replace("{workdir}", str(workdir))
        self.dataset = store.open_dataset(folder)
        check_recipes(self.dataset, meta.get("recipes", {}), self.system.example_spec, workdir)
        self._generate = Generator(self.system, seed=seed)
        self._where = {name: (split, i) for split, names in self.dataset.ids.items()
                       for i, name in enumerate(names)}

    @functools.cached_property
    def recipe(self) -> dict:
        """What made the mel."""
        sums = [float(np.sum(np.asarray(x, np.float64))) for x in jax.tree.leaves(self.params)]
        return {"kind": "generated", "system": self.system.config.name,
                "weights": bigvgan.records.digest({"sums": sums}),
                "level": self._level, "gain": self.decoder.family.mel_recipe["gain"]}

    def sound(self, audio_N: np.ndarray) -> np.ndarray:
        """Recorded sound as the system's mel describes it."""
        recipe = self.decoder.family.mel_recipe
        audio_N = level.normalised(audio_N, recipe["sample_rate"], self._level)
        return audio_N / np.float32(recipe["gain"])

    def mel(self, name: str, frames: int) -> np.ndarray:
        """(frames, bands) log-mel that the system makes of the clip of this id. UserError: it has
        no features, or its own timing."""
        if name not in self._where:
            raise UserError("a clip without features", where=f"{self.dataset.dir}, {name}",
                            expected="features of the same clips", found="nothing",
                            hint="extract them for --generated_data")
        split, index = self._where[name]
        example = self.dataset.source(split, dict.fromkeys(("id", *self._generate.names)))[index]
        [(_, streams)] = self._generate(self.params, [(name, example)])
        streams = self.decoder.speakers(streams)[0]
        made_TM = mel.denormalise(self.decoder.mel(streams), self.decoder.family.mel_recipe)
        if abs(len(made_TM) - frames) > SLACK:
            raise UserError("the system speaks in its own time", where=f"{self.workdir}, {name}",
                            expected=f"{frames} frames, as the clip has", found=str(len(made_TM)),
                            hint="fine-tune on a system that is given the timing: AV-Flow")
        short = max(frames - len(made_TM), 0)
        return np.pad(made_TM, ((0, short), (0, 0)), mode="edge")[:frames].astype(np.float32)

