"""TAVID's streams, of several speakers -> sound, pictures, faces and poses.

Sound is log-mel, by Griffin-Lim or by a vocoder where the dataset has one, or the sound itself that
drove the pictures. Pictures are at 25 Hz,
latents of a VAE. What they show (face code and pose) is `motion` where a system or a dataset gives
it, else what the face reader sees in the decoded pictures.
"""

import functools

import numpy as np

from avjax.codecs import pictures
from avjax.errors import UserError
from avjax.signal import mel
from avjax.systems import api, tavid
from avjax.systems.tavid import config
from data_pipelines import decode


class StreamDecoder(decode.StreamDecoder):
    """One speaker's streams: mel (Tm, 80) or sound (N,), latents (T, h, w, 4), motion (T, M)."""

    heard = ("mel", "sound")
    seen = ("latents", "motion")
    mel_recipe = mel.RECIPE
    fps = 25

    def __init__(self, decoder):
        super().__init__(decoder)
        made = decoder.recipes.get("mel", {})
        self.mel_recipe = mel.RECIPE | {k: made[k] for k in ("gain", "mean", "std") if k in made}
        recipe = decoder.recipes.get("motion", {})
        self.face_recipe = recipe.get("face", {})
        self._face_dim = recipe.get("face_dim", 0)
        self.has_face = self._face_dim > 0
        self.paints = "latents" in decoder.recipes
        self._read = (None, None)  # the latents that were read last, and their motion

    @classmethod
    def matches(cls, recipes):
        """Semantic units, or pictures."""
        return bool({"units", "pictures"} & recipes.keys())

    @functools.cached_property
    def specs(self):
        """Which axis is the speaker's is the same in every config."""
        system = tavid.System(config.full())
        return system.example_spec | system.streams_spec | {
            name: api.Spec(("batch", *shape), "float32", meaning, speaker_axis=shape.index("s") + 1)
            for name, shape, meaning in (("motion", ("time", "s", "m"), "face code and pose"),
                                         ("identity", ("s", "i"), "puppet"),
                                         ("sound", ("time", "s"), "what drove the pictures"),
                                         ("portraits", ("s", "h", "w", 3), "portrait"))}

    def mel(self, streams):
        return np.asarray(streams["mel"], np.float32)

    def waveform(self, streams):
        sound = streams.get("sound", ())
        return np.asarray(sound, np.float32) if len(sound) else super().waveform(streams)

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

    def painter(self, streams):
        latents = streams.get("latents", ())
        if not len(latents):
            return None
        return len(latents), lambda part: self.frames({"latents": latents[part]})

    def frames(self, streams):
        """(T, H, W, 3) uint8."""
        return self._pictures.decode(np.asarray(streams["latents"], np.float32))

    @property
    def drawing(self) -> dict:
        """How puppets are framed here, for motion without latents."""
        recipe = (self._decoder.recipes.get("portraits") or self._decoder.recipes.get("pictures")
                  or {})
        return {name: recipe[name] for name in ("size", "zoom") if recipe.get(name)}

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
