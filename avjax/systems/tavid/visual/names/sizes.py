"""Sizes that the shapes of a published visual network show. Numbers of heads and groups do not
show: they are as published, or the config's."""

import re

from avjax.errors import UserError
from avjax.systems.tavid.visual.names import hallo2
from avjax.systems.tavid.visual.names.net import State, split


def sizes(state: State, config) -> dict:
    """{field of config.system: value}. UserError: not these networks."""
    part = split(state)
    try:
        found = {"unet": _unet(part["denoising_unet"])}
        if "imageproj" in part:
            found |= _faces(part["imageproj"])
        if "face_locator" in part:
            found["locator"] = _locator(part["face_locator"])
        if "audioproj" in part:
            found["audio"] = _audio(part["audioproj"], config.audio)
            found["path"] = "published"  # what they were trained on
    except (KeyError, IndexError) as error:
        raise UserError("these are not the networks of Hallo2", expected=f"an entry {error}",
                        found=", ".join(sorted(state)[:3]),
                        hint="check which model the file is of") from error
    return found


def _unet(state) -> dict:
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down_blocks."))
    down = [f"down_blocks.{i}" for i in range(levels)]
    attends = [f"{block}.attentions.0.norm.weight" in state for block in down]
    block = down[attends.index(True)] if any(attends) else "mid_block"
    first = f"{block}.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    layers = sum(bool(re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.bias", name))
                 for name in state)
    out = {"channels": tuple(len(state[f"{b}.resnets.0.conv1.bias"]) for b in down),
           "layers": layers, "attention_levels": tuple(attends),
           "latent_dim": state["conv_in.weight"].shape[1], "face_dim": state[first].shape[1]}
    if regions := hallo2.regions_of(state):
        out["regions"] = regions
        out["motion_dim"] = next(x.shape[1] for n, x in state.items() if hallo2.MOTION in n
                                 and re.fullmatch(r".*\.attn2_\d\.to_k\.weight", n))
    if tables := [x for n, x in state.items() if n.endswith(hallo2.POSITIONS)]:
        out["temporal_length"] = tables[0].shape[1]
    return out


def _faces(state) -> dict:
    return {"face_width": state["proj.weight"].shape[1],
            "face_tokens": len(state["proj.bias"]) // len(state["norm.bias"])}


def _locator(state) -> tuple[int, ...]:
    halvings = sorted(int(name.split(".")[1]) for name in state if re.fullmatch(
        r"blocks\.\d+\.bias", name))[1::2]
    return (len(state["conv_in.bias"]), *(len(state[f"blocks.{i}.bias"]) for i in halvings))


def _audio(state, audio) -> dict:
    """The layers' width is the encoder's, which does not show: config's."""
    hidden, inputs = state["proj1.weight"].shape
    window = (2 * audio.margin + 1) * audio.width
    if inputs % window:
        raise UserError("the sound's projection reads another encoder", where="audioproj.proj1",
                        expected=f"a multiple of {window}: {2 * audio.margin + 1} frames of layers "
                        f"of {audio.width}", found=str(inputs),
                        hint="set config.system.audio.width to that encoder's")
    return {"hidden": hidden, "layers": inputs // window,
            "tokens": len(state["proj3.bias"]) // len(state["norm.bias"])}
