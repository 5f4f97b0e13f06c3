"""What `config.data` names: one dataset (`dir`, `train_split`) or a mixture of several.

Of a mixture, the first source stands where `dir` stands otherwise: its splits are held out, its
codecs and recipes go with the checkpoint, its clips are compared with.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avjax.errors import UserError
from avjax.storage import paths
from data_pipelines.loading.mixture import Part
from data_pipelines.store.dataset import open_dataset

FIELDS = ("dir", "mixture")  # of config.data, which name folders


def sources(data) -> list[tuple[str, str, float, str]]:
    """(folder, split, weight, view) of what is trained on."""
    if data.get("mixture"):
        return [(*source, "")[:4] for source in data.mixture]
    return [(data.dir, data.train_split, 1.0, "")]


def main_folder(data) -> str:
    """Folder of the dataset that evaluation, decoding and samples take; "" where none is named."""
    return data.mixture[0][0] if data.get("mixture") else data.dir


def folders(data, where: str = "config") -> Iterator[tuple[str, str]]:
    """(field, folder) of every dataset."""
    if not data.get("mixture"):
        yield f"{where}.data.dir", data.dir
    for index, source in enumerate(data.get("mixture", ())):
        yield f"{where}.data.mixture[{index}]", source[0]


def said(data) -> str:
    """Which of a mixture's datasets is looked at; "" where there is one."""
    if not data.get("mixture"):
        return ""
    return (f"data: {main_folder(data)}, the first of the {len(data.mixture)} sources of "
            "config.data.mixture")


def check_folder(folder: str, where: str = "config.data.dir") -> None:
    """UserError: no folder of a dataset is named, or one that is no disk's."""
    if not folder:
        raise UserError("no data given", where=where, expected="the folder of a dataset",
                        hint="--config.data.dir=DIR; avjax prepare and avjax extract make one")
    if paths.is_remote(folder):
        raise UserError("data is read from disks", where=where,
                        expected="a folder that every host sees", found=folder,
                        hint="copy the dataset there, or mount the bucket as a folder")


def open_parts(data, begun: set[str] = frozenset()) -> list[Part]:
    """The sources, each dataset opened once. UserError: what is not there or not whole.

    Args:
      begun: folders that this job has read at an earlier start.
    """
    opened: dict[str, Any] = {}
    parts = []
    for (where, _), (folder, split, weight, view) in zip(folders(data), sources(data), strict=True):
        check_folder(folder, where)
        key = str(Path(folder).absolute())
        if key not in opened:
            opened[key] = open_dataset(folder, begun=folder in begun)
        parts.append(Part(opened[key], split, float(weight), view))
    return parts


def only_moved(before, now) -> bool:
    """Whether two recorded mixtures differ in nothing but where their folders are."""
    return bool(before and now) and [source[1:] for source in before] == [
        source[1:] for source in now]
