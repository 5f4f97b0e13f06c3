"""Finds the vocoder that makes sound of mel: a published BigVGAN's file, a folder that holds one,
or the workdir of a training of ours."""

import os
import pathlib

from ml_collections import ConfigDict

from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.storage import paths
from avjax.systems import api
from avjax.systems.vocoder import published

NAME = "vocoder"  # among a dataset's recipes and codecs, and of the folder in a workdir
GRIFFIN_LIM = "griffin-lim"  # asks for it where a vocoder is kept
ENDINGS = (".pt", ".pth", ".safetensors")
PUBLISHED = "g_"  # a generator's file as the published training saves it, without an ending


def load(path: str | os.PathLike, recipe: dict) -> BigVGAN:
    """The vocoder of a file, of a folder with one generator and its config.json, or of a workdir
    or checkpoint folder that trained one.

    UserError: not there, several in a folder, not a BigVGAN, or trained on another mel than
    `recipe`.
    """
    found = pathlib.Path(path).expanduser()
    if not found.exists():
        raise UserError("no such vocoder", where=str(path),
                        expected=f"a generator's file, a folder with one, a workdir, or "
                                 f"{GRIFFIN_LIM}",
                        found="nothing")
    if trained(found):
        vocoder = _of_training(found)
        vocoder.check(recipe, where=f"{path}: the sound of this model")
        return vocoder
    if found.is_dir():
        files = generators(found)
        if len(files) != 1:
            raise UserError("not the folder of a vocoder", where=str(path),
                            expected="one generator's file",
                            found=", ".join(file.name for file in files) or "none",
                            hint="give the file")
        [found] = files
    vocoder = BigVGAN.from_checkpoint(found)
    vocoder.check(recipe, where=f"{path}: the sound of this model")
    return vocoder


def trained(folder: pathlib.Path) -> bool:
    """Whether it is the workdir, or one checkpoint, of some training."""
    return (folder / "checkpoints").is_dir() or (folder / "meta").is_dir()


def _of_training(folder: pathlib.Path) -> BigVGAN:
    from avjax.checkpoint import loading  # which imports Orbax: a second for who needs no network

    system = loading.load_meta(folder).get("config", {}).get("system", {})
    if system.get("name") != "vocoder":
        raise UserError("not the workdir of a vocoder", where=str(folder),
                        expected="system.name = vocoder", found=str(system.get("name")),
                        hint="give the workdir of a trained configs/vocoder.py")
    config = ConfigDict(system)
    return published.vocoder(config, loading.load_params(folder, api.build(config)))


def generators(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files in a folder that a generator may be in."""
    return sorted(file for file in folder.iterdir() if file.is_file()
                  and (file.suffix in ENDINGS or file.name.startswith(PUBLISHED)))


def in_workdir(workdir: str | os.PathLike) -> str:
    """The vocoder that lies in a workdir; "" for none."""
    if paths.is_remote(workdir):
        return ""
    folder = pathlib.Path(workdir) / NAME
    there = folder.is_dir() and (trained(folder) or generators(folder))
    return str(folder) if there else ""
