"""Packages that metrics need and the base install leaves out; a metric whose package is not there
is not measured, and its row says how to get it."""

import importlib.util
from collections.abc import Iterable

TABLE: dict[str, str] = {"pyworld": "pip install 'avjax[world]'",  # package -> how to get it
                         "webrtcvad": "pip install 'avjax[ge2e]'",
                         "onnxruntime": "pip install 'avjax[dnsmos]'",
                         "whisper_normalizer": "pip install 'avjax[words]'"}


def found(names: Iterable[str]) -> bool:
    """Whether all of these are installed; none is imported."""
    return not _missing(names)


def lacking(names: Iterable[str]) -> list[str]:
    """"PACKAGE (how to get it)" of each that is not installed."""
    return [f"{name} ({TABLE[name]})" for name in _missing(names)]


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]
