"""An avatar in conversation: its own words in silence, and its partner, on one clock.

It is always on: where it says nothing its tokens are those of silence. Where the partner's files
have nothing, the partner is silent and their face and head are at rest: the codes 0, which are a
neutral face looking ahead. `HOLD` seconds lead from what is known to rest and back, so gaps of up
to twice that are interpolated, and longer ones, and a partner who ends earlier, rest.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from avjax.encoders import espeak
from avjax.errors import UserError
from avjax.signal import mel, resample
from data_pipelines import media, prompting
from data_pipelines.features.avflow import partner, partner_files, sound
from data_pipelines.features.avflow.partner_files import EXPRESSION, FPS, TOKENS
from data_pipelines.features.common import ctc

HOLD = 0.5  # seconds
LONGEST = 24 * 3600  # seconds of silence before it speaks
FLAGS = "--partner", "--partner_channel"
RATE = mel.RECIPE["sample_rate"]
PARTNER = prompting.Input(
    "partner", "Whom to listen to, of a model that learned to: files of their sound, film, points "
    "or tokens, separated by commas, or SPLIT/ID of a dataset. Without --text or --audio the "
    "avatar listens as long as they last.")
SPEAKER = prompting.Input(
    "partner_speaker", "Who is in the film of --partner, of the training data's speakers; default "
    "the one that it is named after.")
CHANNEL = prompting.Input(
    "partner_channel", "Whose voice the partner's is, of several channels of sound or tokens; 1 is "
    "the first; of two channels of tokens the second by default.", int)
START = prompting.Input(
    "start", "Second at which the avatar begins to speak; it is silent, and listens, before.",
    float)
INPUTS = (PARTNER, SPEAKER, CHANNEL, START)


def check(request) -> None:
    """UserError for inputs of a conversation that have nothing to act on."""
    if request.start and not (request.text or request.audio or request.tokens or request.example):
        raise UserError("nothing begins then", where="--start", found=f"{request.start:g}",
                        expected="--text or --audio beside it", hint="leave it out")
    if not 0 <= request.start <= LONGEST:
        raise UserError("no such second", where="--start", expected=f"0 to {LONGEST}",
                        found=f"{request.start:g}")
    if request.partner_channel < 0:
        raise UserError("no such channel", where=FLAGS[1], expected="1 or more",
                        found=str(request.partner_channel))
    for name in ("partner_speaker", "partner_channel"):
        if getattr(request, name) and not request.partner:
            raise UserError(f"--{name} without --partner", where=f"--{name}",
                            hint="leave it out, or give --partner")


class Hearing:
    """What sounds and silence are to a model, as its tokens.

    Args:
      tokens_from_audio: ((N,) sound, recipe, codecs) -> (T, C), of models of units.
    """

    def __init__(self, request, decoder, tokens_from_audio):
        self.request, self.decoder, self._units = request, decoder, tokens_from_audio
        self.recipe = decoder.recipes["tokens"]

    def of_file(self, path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
        """(frames, C) on the features' clock, and remarks. UserError: sound tells this model
        nothing."""
        channel = self.request.partner_channel
        if self.recipe["kind"] == ctc.KIND:
            weights = sound.weights(self.request, self.decoder.workdir)
            return ctc.of_sound(str(path), weights, self.recipe, channel=channel,
                                activity=self.request.activity, flags=FLAGS)
        heard = media.read_sound(path, RATE, channel=channel - 1 if channel else None)
        return self._units(heard.samples, self.recipe, self.decoder.codecs), list(heard.told)

    def of_array(self, path: pathlib.Path, channels: int) -> np.ndarray:
        """(frames, C) of logits that were computed elsewhere."""
        channel = self.request.partner_channel or (2 if channels == 2 else 0)
        return ctc.of_array(str(path), self.recipe, channel=channel, flags=FLAGS)

    @functools.cached_property
    def silence(self) -> np.ndarray:
        """(C,) of nothing being said: of no phoneme, or of two seconds without sound."""
        if self.recipe["kind"] == "phones":
            return espeak.phone_features([(espeak.SILENCE, 0.0, 1.0)], 100)[50]
        if self.recipe["kind"] == ctc.KIND:
            weights = sound.weights(self.request, self.decoder.workdir)
            quiet_TC = ctc.load(weights)(np.zeros(2 * ctc.SAMPLE_RATE, np.float32))
        else:
            quiet_TC = self._units(np.zeros(2 * RATE, np.float32), self.recipe, self.decoder.codecs)
        return np.asarray(quiet_TC[len(quiet_TC) // 2], np.float32)


@dataclasses.dataclass
class Side:
    """What a model is told of the partner, on the features' clock.

    Attributes:
      streams: {stream: (frames, width)}; NaN in gaps; those that nothing tells are absent.
    """

    streams: dict[str, np.ndarray]
    remarks: list[str] = dataclasses.field(default_factory=list)

    @property
    def frames(self) -> int:
        """How long the partner is there."""
        return max(map(len, self.streams.values()), default=0)


def of_partner(request, system, hearing: Hearing) -> Side:
    """What `request.partner` means. UserError for a model that does not listen, and for whatever is
    unusable."""
    widths = {name: spec.shape[-1] for name, spec in system.conditions_spec.items()
              if name.startswith("partner_")}
    if not widths:
        raise UserError("this model does not listen", where="--partner",
                        expected="one trained with a partner, as configs/puppets_dyadic.py does",
                        found=f"conditions {', '.join(system.conditions_spec)}",
                        hint="leave --partner out")
    names = [name for name in request.partner.split(",") if name]
    if len(names) == 1 and "/" in names[0] and not partner_files.is_file(names[0]):
        wanted = prompting.Request(**vars(request) | {"example": names[0]})
        row = prompting.read_example(wanted, system, hearing.decoder)
        return Side({name: np.asarray(row[name], np.float32) for name in widths})
    side = _of_files(names, widths, system, hearing)
    if not side.streams:
        raise UserError("nothing of a partner", where="--partner", found=request.partner,
                        expected=f"what tells {' or '.join(widths)}")
    for name in widths:
        x_TC = side.streams.get(name)
        if x_TC is None:
            side.remarks.append(f"the partner's files have no {name.removeprefix('partner_')}: "
                                + ("silent" if name == TOKENS else "at rest"))
            continue
        gaps = np.count_nonzero(~np.isfinite(x_TC).all(1))
        if gaps == len(x_TC):
            raise UserError(f"{name} has no frame", where="--partner", expected="finite numbers",
                            found=f"{gaps} frames that are not")
        if gaps:
            side.remarks.append(f"warning: {name}: {gaps} of {len(x_TC)} frames are missing: "
                                f"interpolated, at rest where longer than {2 * HOLD:g} s")
    return side


def _of_files(names, widths, system, hearing: Hearing) -> Side:
    decoder = hearing.decoder
    found = partner_files.read(names, widths, decoder.recipes, decoder.codecs,
                               hearing.request.partner_speaker)
    side = Side({}, list(found.remarks))
    if found.logits and TOKENS in widths:
        side.streams[TOKENS] = hearing.of_array(*found.logits)
    elif found.sound and TOKENS in widths:
        side.streams[TOKENS], told = hearing.of_file(found.sound)
        side.remarks += told
    if TOKENS in side.streams:
        prompting.check_fits(system.conditions_spec[TOKENS], TOKENS, side.streams[TOKENS])
    for name, x_NC in found.raw.items():
        frames = max(1, round(len(x_NC) / FPS / resample.HOP_SECONDS))
        mode = decoder.recipes[name].get("resample", resample.MODES[0])
        side.streams[name] = resample.to_features(_scaled(x_NC, name, decoder), FPS, frames,
                                                  mode=mode)
    return side


def _scaled(x_NC: np.ndarray, name: str, decoder) -> np.ndarray:
    """As extraction scales what clips have; SMIRK's ranges are its owners', who clip nothing."""
    clip = decoder.recipes.get(EXPRESSION, {}).get("kind") != "smirk"
    return partner.scaled(x_NC, name, decoder.codec(partner.CODEC), clip=clip)


def conversation(request, system, own_TC: np.ndarray | None,
                 hearing: Hearing) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """({"tokens", "partner_...": (frames, width)}, remarks): as long as the longer of the two.

    Args:
      request: `partner` and `start`. Without a partner its streams are left out: zeros, as in
        training without one.
      own_TC: what the avatar says, from `start` seconds on; None = nothing.
    """
    side = of_partner(request, system, hearing) if request.partner else None
    quiet_C = hearing.silence
    first = round(request.start / resample.HOP_SECONDS)
    own_TC = np.zeros((0, len(quiet_C)), np.float32) if own_TC is None else own_TC
    frames = max(first + len(own_TC) if len(own_TC) else 0, side.frames if side else 0)
    tokens_TC = np.tile(quiet_C, (frames, 1))
    tokens_TC[first:first + len(own_TC)] = own_TC
    out = {"tokens": tokens_TC}
    if side is None:
        return out, ()
    for name, spec in system.conditions_spec.items():
        if name.startswith("partner_"):
            nothing_TC = np.zeros((0, spec.shape[-1]), np.float32)
            rest_C = quiet_C if name == TOKENS else _scaled(np.zeros(spec.shape[-1], np.float32),
                                                            name, hearing.decoder)
            out[name] = settled(side.streams.get(name, nothing_TC), frames, rest_C,
                                0.0 if name == TOKENS else HOLD)
    return out, tuple(side.remarks)


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
