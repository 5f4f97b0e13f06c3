"""Decoder's third way: streams of several parties, whose pictures are latents of a VAE (TAVID).

Sound is log-mel, by Griffin-Lim or by a vocoder where the dataset has one. Pictures are at 25 Hz.
What they show (face code and pose) is `motion` where a system or a dataset gives it, else what the
face reader sees in the decoded pictures.
"""

import functools

import numpy as np

from avjax.codecs import pictures
from avjax.errors import UserError
from avjax.signal import griffin_lim, mel

_PARTY_AXIS = {"units": (2, 1), "mel": (3, 1), "motion": (3, 1), "latents": (5, 1),
               "voices": (2, 0), "faces": (2, 0),
               # {stream: (axes with a party's, which it is)}
               "identity": (2, 0), "portraits": (4, 0), "reference": (4, 0)}


def parties(streams) -> list[dict]:
    """The streams of each party, without their axis; those of one party alone as they are."""
    found = {n: np.moveaxis(np.asarray(streams[n]), axis, 0) for n,
             (axes, axis) in _PARTY_AXIS.items()
             if n in streams and np.ndim(streams[n]) == axes}
    return [dict(streams)] if not found else [
        {n: x[s] for n, x in found.items()} for s in range(len(next(iter(found.values()))))]


class DialogueWay:
    """One party's streams: mel (Tm, 80), latents (T, h, w, 4), motion (T, M). `decoder`: the
    Decoder."""

    heard, seen = ("mel",), ("latents", "motion")
    mel_recipe = mel.RECIPE
    fps = 25

    def __init__(self, decoder):
        self._decoder = decoder
        motion = decoder.recipes.get("motion", {})
        self.face_recipe, self._face_dim = motion.get("face", {}), motion.get("face_dim", 0)
        self.has_face = self._face_dim > 0
        self._read = (None, None)  # the latents that were read last, and their motion

    def mel(self, streams):
        return np.asarray(streams["mel"], np.float32)

    def waveform(self, streams):
        log_mel_TM = mel.denormalise(self.mel(streams))
        if self._vocoder:
            return self._vocoder.waveform(log_mel_TM)
        return griffin_lim.waveform(log_mel_TM, iterations=self._decoder.iterations)

    def motion_codes(self, streams):
        if len(streams.get("motion", ())):
            return np.asarray(streams["motion"], np.float32)
        if self._read[0] is not streams["latents"]:
            self._read = streams["latents"], np.asarray(self._reader.read(self.frames(streams)),
                                                        np.float32)
        return self._read[1]

    def face(self, streams):
        return self.motion_codes(streams)[:, :self._face_dim]

    def pose_z(self, streams):
        return self.motion_codes(streams)[:, self._face_dim:]

    def has_pictures(self, streams) -> bool:
        return len(streams.get("latents", ())) > 0

    def frames(self, streams):
        return self._pictures.decode(np.asarray(streams["latents"], np.float32))

    @property
    def drawing(self) -> dict:
        """How puppets are framed here, for motion without latents."""
        recipe = (self._decoder.recipes.get("portraits") or self._decoder.recipes.get("pictures")
                  or {})
        return {name: recipe[name] for name in ("size", "zoom") if recipe.get(name)}

    @functools.cached_property
    def _vocoder(self):
        if "vocoder" not in self._decoder.recipes:
            return None
        from avjax.codecs.bigvgan import BigVGAN

        vocoder = BigVGAN.from_recipe(self._decoder.recipes["vocoder"],
                                      self._decoder.codec("vocoder"))
        vocoder.check(self.mel_recipe)
        return vocoder

    @functools.cached_property
    def _pictures(self) -> pictures.PictureCodec:
        return pictures.from_recipe(self._decoder.recipes.get("latents", {}),
                                    self._decoder.codec("vae"))

    @functools.cached_property
    def _reader(self):
        if "reader" not in self._decoder.recipes:
            raise UserError("nothing here reads faces", where="recipes.json, reader",
                            expected="a trained face reader", found="none",
                            hint="extract the features with --reader=WORKDIR of "
                            "configs/face_reader.py")
        from avjax.codecs import face_reader

        return face_reader.from_recipe(self._decoder.recipes["reader"],
                                       self._decoder.codec("reader"))
