"""A whole release into a workdir: the network, and beside it all that it takes to decode its
streams and to drive it.

    WORKDIR/checkpoints, config.json, recipes.json, codecs/
    WORKDIR/vocoder/    makes the sound
    WORKDIR/ctc/        makes tokens of sound
    WORKDIR/text/       makes tokens of text, a workdir of its own
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from avjax.errors import UserError
from avjax.weights.reader import read_state_dict
from configs import avflow_50h
from data_pipelines import vocoders
from data_pipelines.features.common import ctc
from data_pipelines.ingest.avflow50h import release
from data_pipelines.store.schema import CODECS_DIR, RECIPES_FILE
from launch.jobs import weights

SYSTEM, TEXT_SYSTEM = "avflow", "avflow.text"
TEXT = "text"  # the folder in a workdir


def import_folder(system: str, folder: str, workdir: str, *, file: str | None = None,
                  config: ConfigDict | None = None,
                  say: Callable[[str], None] = print) -> ConfigDict:
    """Imports everything of a folder (see data_pipelines/ingest/avflow50h/release.py), or nothing;
    returns the config.

    Args:
      file: the network's file, where the folder has several or it lies elsewhere.
      config: the experiment; default the release's, with the sizes that the files show.
      say: is told what was taken, and what is missing.

    Raises UserError: another system; no network or head VAE; files of another network, mel or
    kind; a workdir that is in use.
    """
    if system != SYSTEM:
        raise UserError("no release of this system is known", where="--system", expected=SYSTEM,
                        found=system, hint="--file imports one file")
    parts = release.parts(folder, file)
    say(f"network: {parts.network}")

    def beside(settings: ConfigDict, place: Path) -> dict[str, dict]:
        recipes, codecs = release.described(
            parts.folder, participant=settings.partner_expression_dim > 0,
            latent=settings.head_dim)
        (place / RECIPES_FILE).write_text(json.dumps(recipes, indent=1))
        (place / CODECS_DIR).mkdir()
        for name, arrays in codecs.items():
            np.savez(place / CODECS_DIR / f"{name}.npz", **arrays)
        _vocoder(parts.vocoder, place, say)
        _sound(parts.sound, place, say)
        _text(parts.text, place, say)
        return recipes

    return weights.import_file(SYSTEM, str(parts.network), workdir, beside=beside,
                               config=config or _experiment(parts))


def _experiment(parts: release.Parts) -> ConfigDict:
    """The release's, with the sizes of the network's file."""
    config = avflow_50h.get_config()
    state = read_state_dict(str(parts.network))
    config.system.update(weights.published(SYSTEM, "--system").sizes(state, config.system))
    return config


def _vocoder(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("vocoder: none found, so Griffin-Lim makes the sound; --vocoder=FILE names one")
        return
    vocoders.load(file, release.mel_recipe())
    _copy(place / vocoders.NAME, file, file.with_name("config.json"))
    say(f"vocoder: {file}")


def _sound(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("sound to tokens: none found; avjax generate --audio wants --ctc=FILE")
        return
    ctc.load(str(file))
    if file.is_dir():
        shutil.copytree(file, place / ctc.NAME)
    else:
        _copy(place / ctc.NAME, file, file.with_name("config.json"))
    say(f"sound to tokens: {file}")


def _text(file: Path | None, place: Path, say) -> None:
    if file is None:
        say("text to tokens: none found; drive it by --audio or --tokens")
    else:
        weights.import_file(TEXT_SYSTEM, str(file), str(place / TEXT))
        say(f"text to tokens: {file}")


def _copy(folder: Path, *files: Path) -> None:
    folder.mkdir()
    for file in files:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
