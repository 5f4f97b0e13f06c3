"""A trained text-to-tokens network beside the model that reads its tokens: WORKDIR/text, a workdir
of `avflow.text`."""

import pathlib
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from avjax.encoders.text import front_end, phonemes
from avjax.errors import UserError
from avjax.inference.generator import Generator, Item
from avjax.systems import api
from data_pipelines.features.common import trained
from data_pipelines.store.schema import recipe_hash

FOLDER = "text"  # in the workdir of the model
SYSTEM = "avflow.text"


def symbols_of(text: str, language: str, config,
               recipes: Mapping[str, Mapping]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(symbols (P,), remarks) of a text for a network of this config, trained on data of these
    recipes. language: "" = the one that it was trained on."""
    learned = recipes.get("symbols", {}).get("language", phonemes.LANGUAGE)
    spoken = front_end.read(text, language or learned, count=config.symbols)
    remarks = (f"read as: {spoken.normalised}",) if spoken.normalised != text else ()
    if language and language != learned:
        remarks += (f"language {language} by a model that has learned {learned}",)
    return spoken.ids, remarks


def conditions_of(symbols: np.ndarray) -> dict[str, np.ndarray]:
    """Of `System.steps`, which makes room for its answer itself."""
    return {"symbols": symbols, "symbols_length": np.int32(len(symbols)),
            "room": np.zeros(1, np.int32)}


def in_workdir(workdir) -> pathlib.Path | None:
    """The folder of the network in a model's workdir; None for none."""
    folder = pathlib.Path(workdir) / FOLDER
    return folder if (folder / "config.json").is_file() else None


class TextToTokens:
    """Speaks texts as tokens.

    Args:
      folder: of the network's training, or import.
      recipe: of the tokens that the model reads.
      seed: of the noise; its name is the text.
      length_scale, temperature: instead of the config's, where given.

    Raises UserError: another system, or tokens of another kind than the model's.
    """

    def __init__(self, folder, recipe: Mapping, *, seed: int = 0,
                 length_scale: float | None = None, temperature: float | None = None):
        found = trained.load(folder, SYSTEM)
        own = found.recipes.get("tokens")
        if own and recipe_hash(own) != recipe_hash(recipe):
            raise UserError("text becomes tokens of another kind than the model reads",
                            where=str(folder), expected=f"{recipe.get('kind')} "
                            f"({recipe_hash(recipe)})", found=f"{own.get('kind')} "
                            f"({recipe_hash(own)})",
                            hint="extract its features with --like, the features of the model")
        config = ConfigDict(found.config)
        given = {"length_scale": length_scale, "temperature": temperature}
        config.update({name: value for name, value in given.items() if value is not None})
        self.folder, self._recipes, self._one_hot = folder, found.recipes, recipe["kind"] == "units"
        self._system, self._params = api.build(config), found.params
        self._generator = Generator(self._system, seed=seed)

    def __call__(self, text: str, language: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
        """(tokens (T, C) float32 on the mel's clock, remarks)."""
        symbols, remarks = symbols_of(text, language, self._system.config, self._recipes)
        conditions = conditions_of(symbols)
        [(_, out, frames)] = self._generator.batches(
            self._params, [Item(text, lambda: (conditions, 1))])
        tokens_TC = self._generator.streams(text, out, frames)["tokens"]
        if self._one_hot:
            tokens_TC = np.eye(tokens_TC.shape[1])[tokens_TC.argmax(1)]
        return tokens_TC.astype(np.float32), remarks
