"""How a system's weights are published: what `launch.weights` needs to know of it.

A system with published weights declares one `PUBLISHED = Published(...)` in its `published.py`,
where `avjax.systems.registry.published` finds it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

State = dict[str, np.ndarray]  # a published state dict: {name: array}


@dataclasses.dataclass(frozen=True)
class Published:
    """One network's published names, both directions.

    Attributes:
      experiment: module of configs/ whose get_config() is the published experiment, perhaps with
        a variant of it: "NAME:VARIANT".
      read: (state dict, config.system) -> our parameters. Parts (entries of the top level) that it
        leaves out are drawn by config.seed, e.g. beside a language model alone.
      write: (our parameters, config.system) -> state dict.
      sizes: (state dict, published config.system) -> {field of config.system: value} that the
        arrays' shapes show. UserError for another network's weights.
      file: (state dict, step) -> the tree that the published code saves as a .pt.
      opened: reads a file (and what belongs to it and lies beside it) whose weights
        avjax.weights.reader would not find; None where it does.
      files: of a folder that `opened` reads as well: {what it is: its path}; None where it reads
        none.
      beside: config.system -> {name: text} of the files that lie beside a .pt.
      training: parts (entries of the top level) of ours that no published file has, such as those
        that only training uses.
      fresh: config.system -> regular expressions of the parameters below the top level that `read`
        may leave out as well.
      unread: (state dict, config.system) -> what of the file the config has no place for, to be
        told.
    """

    experiment: str
    read: Callable[[State, Any], dict]
    write: Callable[[Any, Any], State]
    sizes: Callable[[State, Any], dict[str, Any]]
    file: Callable[[State, int], dict] = lambda state, step: state
    opened: Callable[[str], State] | None = None
    beside: Callable[[Any], dict[str, str]] = lambda config: {}
    training: tuple[str, ...] = ()
    fresh: Callable[[Any], tuple[str, ...]] = lambda config: ()
    unread: Callable[[State, Any], tuple[str, ...]] = lambda state, config: ()
    files: Callable[[str], dict[str, Any]] | None = None
