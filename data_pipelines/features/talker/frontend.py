"""What Talker reads of speech, text and faces: the twin of decode.py, fitted by extraction and
restored from any workdir.

Everything is at 25 Hz: audio latent j covers samples [960 j, 960 (j + 1)) of 24 kHz, motion frame j
is the state at j / 25 s.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from avjax.codecs import latents, motion
from avjax.encoders import voices
from avjax.encoders.plain_text import plain
from avjax.encoders.voices import wavlm_ecapa
from avjax.errors import UserError
from avjax.signal import level as level_lib
from avjax.signal import resample
from avjax.signal.resample import resampled
from data_pipelines.features.talker import audio_codec as audio_codecs
from data_pipelines.features.talker import phonemes
from data_pipelines.features.talker.phonemes import Phonemes
from data_pipelines.features.talker.tokenizer import CODEC as TOKENIZER
from data_pipelines.features.talker.tokenizer import Tokenizer
from data_pipelines.store.schema import Feature, arrays_hash

DEVIATIONS = "standard deviations"


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The frozen front-ends of one dataset. `motion_codec` is None where no clip has motion."""

    tokenizer: Tokenizer | Phonemes
    audio_codec: latents.AudioCodec
    voice_encoder: voices.Voice
    motion_codec: motion.MotionCodec | None = None
    # of all speech; None: as it comes
    level: dict | None = dataclasses.field(default_factory=lambda: level_lib.RECIPE)

    def schema(self) -> dict[str, Feature]:
        """What an example's arrays are."""
        own = self.audio_codec.recipe["kind"] == audio_codecs.KIND
        scale, kind = "the codec's own" if own else DEVIATIONS, self.recipes["motion"]["kind"]
        voice = self.voice_encoder.recipe["width"]
        return {
            "tokens": Feature((None,), "int32", f"prompt ids, {self.tokenizer.kind}"),
            "audio": Feature((None, latents.DIM), "float32", "audio latents", scale, latents.RATE),
            "motion": Feature((None, motion.DIM), "float32", f"motion, {kind}", DEVIATIONS,
                              motion.RATE),
            "voice": Feature((voice,), "float32", "speaker embedding", DEVIATIONS)}

    @classmethod
    def from_codecs(cls, recipes: Mapping[str, dict],
                    codecs: Mapping[str, Mapping[str, np.ndarray]], voice: str = "",
                    workdir: pathlib.Path | None = None) -> "Encoder":
        """Of a dataset's or workdir's recipes and codecs. voice: the weights that make its voices,
        where the codecs do not hold them; workdir: where those of the audio codec may lie.
        UserError names what is missing."""
        for name in ("audio", "voice", "tokens"):
            if name not in recipes:
                raise UserError("not a dataset of Talker's features", where="recipes.json",
                                expected=f"a recipe {name!r}", found=", ".join(recipes),
                                hint="extract with --features=talker")
        has_motion = recipes.get("motion", {}).get("kind", "none") != "none"
        tokens = recipes["tokens"]
        return cls(Phonemes.from_recipe(tokens) if tokens.get("kind") == phonemes.KIND
                   else Tokenizer.from_codec(tokens, codecs.get(TOKENIZER)),
                   audio_codecs.from_recipe(recipes["audio"], codecs, workdir),
                   voices.from_recipe(recipes["voice"], codecs.get("voice", {}), weights=voice),
                   motion.from_recipe(recipes["motion"], codecs.get("motion")) if has_motion
                   else None,
                   recipes["audio"].get("level"))

    @property
    def recipes(self) -> dict[str, dict]:
        """{feature: how it is made}, with the hash of everything fitted."""
        out = {"audio": {**self.audio_codec.recipe,
                         "arrays": arrays_hash(self.audio_codec.arrays())},
               "voice": {**self.voice_encoder.recipe,
                         "arrays": arrays_hash(self.voice_encoder.arrays())},
               "tokens": self.tokenizer.recipe, "motion": {"kind": "none"}}
        out["tokens"] |= {} if self.tokenizer.scripts is None else {"text": "stripped, plain"}
        out["audio"] |= {"level": dict(self.level)} if self.level else {}
        if self.motion_codec:
            out["motion"] = {**self.motion_codec.recipe,
                             "arrays": arrays_hash(self.motion_codec.arrays())}
        return out

    @property
    def codecs(self) -> dict[str, dict[str, np.ndarray]]:
        """What a dataset keeps, for `from_codecs`."""
        out = {"audio": self.audio_codec.arrays()}
        for name, of in ((TOKENIZER, self.tokenizer), ("voice", self.voice_encoder)):
            out |= {name: arrays} if (arrays := of.arrays()) else {}
        if isinstance(self.audio_codec, audio_codecs.WhisperXVAE):
            out[audio_codecs.FILES] = self.audio_codec.files()
        return out | ({"motion": self.motion_codec.arrays()} if self.motion_codec else {})

    def prompt(self, text: str, *, allow_empty: bool = False) -> np.ndarray:
        """(n,) int32 token ids of everything before the patch slots, of plain text for the
        stand-in, which knows the marks of its corpus alone. Raises UserError for empty text."""
        text = text if self.tokenizer.scripts is None else plain(text)
        return self.tokenizer.prompt(text, allow_empty=allow_empty)

    def audio(self, audio_N: np.ndarray, rate: float, silence: int = 0) -> np.ndarray:
        """Float samples at any rate, and so many of silence behind them -> (T, 32) latents of
        speech at one level."""
        return self.audio_codec.many([self.sound(audio_N, rate, silence)])[0]

    def sound(self, audio_N: np.ndarray, rate: float, silence: int = 0) -> np.ndarray:
        """The same -> what the audio codec's `many` takes."""
        audio_N = level_lib.normalised(audio_N, rate, self.level)
        return self.audio_codec.prepared(resampled(np.pad(audio_N, (0, silence)), rate))

    @property
    def hears_voices(self) -> bool:
        """Whether `voice` can be asked: the weights that it needs are there."""
        return not isinstance(self.voice_encoder, wavlm_ecapa.Unloaded)

    def voice(self, audio_N: np.ndarray, rate: float) -> np.ndarray:
        """Float samples of the reference voice -> (256,). UserError: too little to hear."""
        return self.voice_encoder(resampled(audio_N, rate, self.voice_encoder.sample_rate))


def face_motion(face_NF: np.ndarray, pose_NP: np.ndarray, rate: float) -> np.ndarray:
    """Face code and z-scored pose at `rate` -> (T, 40) at 25 Hz, not z-scored; T covers the track's
    duration."""
    frames = min(len(face_NF), len(pose_NP))
    raw_NM = motion.pack(face_NF[:frames], pose_NP[:frames])
    return resample.convert(raw_NM, rate, motion.RATE,
                            int(np.ceil(frames * motion.RATE / rate - 1e-6)))
