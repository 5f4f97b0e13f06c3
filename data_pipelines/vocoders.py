"""Finds the vocoder that makes sound of mel: a published BigVGAN's file, or a folder that holds
one."""

import os
import pathlib

from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.storage import paths

NAME = "vocoder"  # among a dataset's recipes and codecs, and of the folder in a workdir
GRIFFIN_LIM = "griffin-lim"  # asks for it where a vocoder is kept
ENDINGS = (".pt", ".pth", ".safetensors")
PUBLISHED = "g_"  # a generator's file as the published training saves it, without an ending


def load(path: str | os.PathLike, recipe: dict) -> BigVGAN:
    """The vocoder of a file, or of a folder with one generator and its config.json.

    UserError: not there, several in a folder, not a BigVGAN, or trained on another mel than
    `recipe`.
    """
    found = pathlib.Path(path).expanduser()
    if not found.exists():
        raise UserError("no such vocoder", where=str(path),
                        expected=f"a generator's file, a folder with one, or {GRIFFIN_LIM}",
                        found="nothing")
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


def generators(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files in a folder that a generator may be in."""
    return sorted(file for file in folder.iterdir() if file.is_file()
                  and (file.suffix in ENDINGS or file.name.startswith(PUBLISHED)))


def in_workdir(workdir: str | os.PathLike) -> str:
    """The vocoder that lies in a workdir; "" for none."""
    if paths.is_remote(workdir):
        return ""
    folder = pathlib.Path(workdir) / NAME
    return str(folder) if folder.is_dir() and generators(folder) else ""
