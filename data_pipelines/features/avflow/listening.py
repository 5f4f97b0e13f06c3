"""An avatar in conversation: its own words in silence, and its partner, on one clock.

It is always on: where it says nothing its tokens are those of silence. Where the partner's files
have nothing, the partner is silent and their face and head are at rest: the codes 0, which are a
neutral face looking ahead. `HOLD` seconds lead from what is known to rest and back, so gaps of up
to twice that are interpolated, and longer ones, and a partner who ends earlier, rest.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.signal import mel, resample
from data_pipelines import prompting
from data_pipelines.features.avflow import partner, partner_files
from data_pipelines.features.avflow import tokens as tokens_of
from data_pipelines.features.avflow.partner_files import EXPRESSION, FPS, RATE, TOKENS

HOLD = 0.5  # seconds
PARTNER = prompting.Input(
    "partner", "Whom to listen to, of a model that learned to: files of their sound, film, points "
    "or tokens, separated by commas, or SPLIT/ID of a dataset. Without --text or --audio the "
    "avatar listens as long as they last.")
PARTNER_SPEAKER = prompting.Input(
    "partner_speaker", "Who is in the film of --partner, of the training data's speakers; default "
    "the one that it is named after.")
START = prompting.Input(
    "start", "Second at which the avatar begins to speak; it is silent, and listens, before.",
    float)


@dataclasses.dataclass
class Side:
    """What a model is told of one side, on the features' clock.

    Attributes:
      streams: {stream: (frames, width)}; NaN in gaps; those that nothing tells are absent.
      frames: how long the partner is there.
    """

    streams: dict[str, np.ndarray]
    frames: int
    remarks: tuple[str, ...] = ()


def of_partner(request, system, decoder, tokens_from_audio) -> Side:
    """What `request.partner` means. `tokens_from_audio`: (N,) sound -> (T, C). UserError for a
    model that does not listen, and for whatever is unusable."""
    widths = {name: spec.shape[-1] for name, spec in system.conditions_spec.items()
              if name.startswith("partner_")}
    if not widths:
        raise UserError("this model does not listen", where="--partner",
                        expected="one trained with a partner, as configs/puppets_dyadic.py does",
                        found=f"conditions {', '.join(system.conditions_spec)}",
                        hint="leave --partner out")
    names = [name for name in request.partner.split(",") if name]
    if len(names) == 1 and "/" in names[0] and not pathlib.Path(names[0]).exists() \
            and not pathlib.Path(names[0]).suffix:
        row = prompting.read_example(prompting.Request(**vars(request) | {"example": names[0]}),
                                     system, decoder)
        return Side({name: np.asarray(row[name], np.float32) for name in widths},
                    len(row[next(iter(widths))]))
    found = partner_files.read(names, widths, decoder.recipes, decoder.codecs,
                               request.partner_speaker)
    return _on_clock(found, system, tuple(widths), decoder, tokens_from_audio)


def _on_clock(found: partner_files.Found, system, wanted: tuple[str, ...], decoder,
              tokens_from_audio) -> Side:
    hop, streams, remarks = mel.RECIPE["hop"], {}, list(found.remarks)
    sound = found.audio_N
    lengths = {name: round(len(x) / FPS / resample.HOP_SECONDS) for name, x in found.raw.items()
               if name != TOKENS}
    if sound is not None:
        lengths["sound"] = len(sound) // hop
    if TOKENS in found.raw and sound is None:
        lengths[TOKENS] = round(len(found.raw[TOKENS]) / 50 / resample.HOP_SECONDS)
    frames = max(lengths.values(), default=0)
    if not frames:
        raise UserError("nothing of a partner", where="--partner",
                        expected="a tenth of a second at least", found="no frames")
    for name in wanted:
        mode = decoder.recipes[name].get("resample", resample.MODES[0])
        if name == TOKENS and TOKENS in found.raw:
            own = lengths.get("sound", lengths.get(TOKENS))
            streams[name] = tokens_of.logits_on_clock(found.raw[name],
                                                      np.zeros(own * hop), own, mode)
        elif name == TOKENS and sound is not None:
            streams[name] = tokens_from_audio(sound)
        elif name in found.raw:
            streams[name] = resample.to_features(_scaled(found.raw[name], name, decoder), FPS,
                                                 lengths[name], mode=mode)
        else:
            remarks.append(f"the partner's files have no {name.removeprefix('partner_')}: "
                           + ("silent" if name == TOKENS else "at rest"))
    for name, x_TC in streams.items():
        prompting.check_fits(system.conditions_spec[name], name, x_TC)
        gaps = np.count_nonzero(~np.isfinite(x_TC).all(1))
        if gaps == len(x_TC):
            raise UserError(f"{name} has no frame", where="--partner", expected="finite numbers",
                            found=f"{gaps} frames that are not")
        if gaps:
            remarks.append(f"warning: {name}: {gaps} of {len(x_TC)} frames are missing: "
                           f"interpolated, at rest where longer than {2 * HOLD:g} s")
    return Side(streams, frames, tuple(remarks))


def _scaled(x_NC: np.ndarray, name: str, decoder) -> np.ndarray:
    """As extraction scales what clips have; SMIRK's ranges are its owners', who clip nothing."""
    clip = decoder.recipes.get(EXPRESSION, {}).get("kind") != "smirk"
    return partner.scaled(x_NC, name, decoder.codec(partner.CODEC), clip=clip)


def conversation(own_TC: np.ndarray | None, start: float, side: Side | None, system, decoder,
                 tokens_from_audio) -> dict[str, np.ndarray]:
    """{"tokens", "partner_...": (frames, width)}: as long as the longer of the two.

    Args:
      own_TC: what the avatar says, from `start` seconds on; None = nothing.
      side: the partner; None = there is none: zeros, as in training without one.
    """
    quiet_C = silence(decoder.recipes["tokens"], tokens_from_audio)
    first = round(start / resample.HOP_SECONDS)
    own_TC = np.zeros((0, len(quiet_C)), np.float32) if own_TC is None else own_TC
    frames = max(first + len(own_TC) if len(own_TC) else 0, side.frames if side else 0)
    tokens_TC = np.tile(quiet_C, (frames, 1))
    tokens_TC[first:first + len(own_TC)] = own_TC
    out = {"tokens": tokens_TC}
    for name, spec in system.conditions_spec.items():
        if side is None or not name.startswith("partner_"):
            continue
        rest_C = quiet_C
        if name != TOKENS:
            rest_C = _scaled(np.zeros(spec.shape[-1], np.float32), name, decoder)
        x_TC = side.streams.get(name, np.zeros((0, spec.shape[-1]), np.float32))
        out[name] = settled(x_TC, frames, rest_C, 0.0 if name == TOKENS else HOLD)
    return out


def settled(x_TC: np.ndarray, frames: int, rest_C: np.ndarray, hold: float = HOLD) -> np.ndarray:
    """(frames, C) of (T, C) with gaps (NaN) and an end: at rest where no known frame is within
    `hold` seconds, interpolated between."""
    x_TC = np.asarray(x_TC[:frames], np.float32)
    x_TC = np.concatenate([x_TC, np.full((frames - len(x_TC), len(rest_C)), np.nan, np.float32)])
    known_T, at = np.isfinite(x_TC).all(1), np.arange(frames)
    before = np.maximum.accumulate(np.where(known_T, at, -np.inf))
    after = np.minimum.accumulate(np.where(known_T, at, np.inf)[::-1])[::-1]
    far_T = np.minimum(at - before, after - at) > hold / resample.HOP_SECONDS
    x_TC[far_T] = rest_C
    good = np.flatnonzero(known_T | far_T)
    for column in x_TC.T:
        column[:] = np.interp(at, good, column[good])
    return x_TC


def silence(recipe: Mapping, tokens_from_audio) -> np.ndarray:
    """(C,) the tokens of nothing being said: of no phoneme, or of two seconds without sound."""
    if recipe["kind"] == "phones":
        return espeak.phone_features([(espeak.SILENCE, 0.0, 1.0)], 100)[50]
    quiet_TC = tokens_from_audio(np.zeros(2 * RATE, np.float32))
    return quiet_TC[len(quiet_TC) // 2]

