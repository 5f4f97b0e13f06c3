"""The flags of `avjax evaluate` as a user leaves them, for tests that call the command."""

from types import SimpleNamespace

from launch import evaluate as command

DEFAULTS = {"config": None, "checkpoint": None, "out": None, "split": None, "vocoder": "",
            "geometry": "", "lip_vertices": "", "networks": "", "keep_media": False,
            "ranked_by": "", "compare": None, "watch": False, "list": False, "sensitivity": False,
            "robustness": None, "portraits": [], "watch_for": 3600.0, "watch_every": 30.0,
            "benchmark": "", "benchmarks": False, "data": "", "generated": [],
            "generated_ids": "", "processes": None, "shard": None}


def flags(monkeypatch, **given) -> SimpleNamespace:
    """Makes the command see `given` and defaults; returns what it sees, which may be changed."""
    values = SimpleNamespace(**DEFAULTS | given)
    for module in (command, command.workers):
        monkeypatch.setattr(module, "flags", SimpleNamespace(FLAGS=values))
    return values
