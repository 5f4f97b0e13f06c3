"""The resolved config of every shipped experiment as text, one field a line.

    python -m tests.configs.resolved        writes tests/configs/golden/ anew

A change of a config then shows as a diff of these files. A variant that is much like another of its
file is recorded by what differs: fields with its own values, and "KEY: none" for those it lacks.
"""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from configs import conversations, hallo2, tavid, tavid_benchmark, tavid_quickstart
from launch.flags import load_config

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = {
    "avflow_120ms": ("puppets", "paper"),
    "avflow_50h": ("",),
    "avflow_ablations": ("highway", "separate", "shared", "cascaded"),
    "avflow_paper": ("",),
    "avflow_released": ("",),
    "avflow_text": ("", "paper", "small"),
    "base": ("",),
    "clips": ("",),
    "conversations": ("", *conversations.VARIANTS),
    "face_reader": ("",),
    "head_vae": ("",),
    "puppets_ablations": ("highway", "separate", "shared", "cascaded"),
    "puppets_dyadic": ("",),
    "puppets_text": ("",),
    "puppets_vocoder": ("",),
    "quickstart": ("",),
    "talker_0_6b": ("",),
    "talker_benchmark": ("",),
    "talker_clips": ("",),
    "talker_coupling": ("separate", "joint"),
    "talker_quickstart": ("", "phonemes"),
    "talker_two_stage": ("two", "single", "speech"),
    "hallo2": ("", *hallo2.VARIANTS),
    "tavid": ("", *tavid.VARIANTS),
    "tavid_benchmark": ("", *tavid_benchmark.VARIANTS),
    "tavid_mapper": ("",),
    "tavid_quickstart": ("", *tavid_quickstart.VARIANTS),
    "vocoder": ("base", "full", "v2", "finetune"),
}


def path(name: str, variant: str) -> str:
    return f"configs/{name}.py" + (f":{variant}" if variant else "")


@functools.cache
def load(file: str) -> ConfigDict:
    """Locked; not to be changed."""
    return load_config(file)


def lines(value, key: str = "") -> list[str]:
    """"key = value" of every leaf, sorted by key; the items of a list of mappings apart."""
    if isinstance(value, ConfigDict | dict) and value:
        named = sorted((str(name), item) for name, item in value.items())
        return [line for name, item in named
                for line in lines(item, f"{key}.{name}" if key else name)]
    if isinstance(value, tuple) and any(isinstance(item, dict) for item in value):
        return [line for i, item in enumerate(value) for line in lines(item, f"{key}[{i}]")]
    return [f"{key} = {dict(value) if isinstance(value, ConfigDict) else value!r}"]


def differences(found: list[str], like: list[str]) -> list[str]:
    """Lines of `found` that are not in `like`, then "KEY: none" of every key it lacks."""
    keys, there = ([line.partition(" = ")[0] for line in both] for both in (like, found))
    lacking = [f"{key}: none" for key in keys if key not in there]
    return [line for line in found if line not in like] + lacking


def resolved(name: str) -> str:
    """All variants of one file, each below a line "# configs/FILE.py:VARIANT". Of PART-THREE the
    differences from PART, of others those from the first, where these are less than half of it."""
    first, parts, whole = EXPERIMENTS[name][0], [], {}
    for variant in EXPERIMENTS[name]:
        found = whole[variant] = lines(load(path(name, variant)))
        like = variant.partition("-")[0] if "-" in variant else first
        differing = differences(found, whole[like])
        head = f"# {path(name, variant)}"
        if variant != first and len(differing) < len(found) / 2:
            head, found = f"{head}, as {path(name, like)} but for", differing
        parts.append("\n".join([head, *found]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for experiment in EXPERIMENTS:
        (GOLDEN / f"{experiment}.txt").write_text(resolved(experiment))
