"""What makes TAVID's features: the dialogues of a clip dataset, and the encoders that are loaded
for them or fitted on them.

Everything fitted is fitted on one split, once a job (`Partial.once`).
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from avjax.encoders import portrait
from avjax.encoders import units as unit_library
from avjax.encoders import voices as voice_encoders
from avjax.encoders.driving.layers import RANDOM_KIND, SoundLayers
from avjax.errors import UserError
from avjax.signal import level, mel
from avjax.signal.resample import resampled
from data_pipelines import vocoders
from data_pipelines.features.common import clips as common
from data_pipelines.features.common import portraits, trained
from data_pipelines.features.common import units as common_units
from data_pipelines.features.common.painter import Painter
from data_pipelines.features.common.units import with_hash
from data_pipelines.features.tavid import conversations, sounding
from data_pipelines.features.tavid.given_faces import COLUMN, GivenFaces
from data_pipelines.features.tavid.tokenizer import CODEC as TOKENIZER
from data_pipelines.features.tavid.tokenizer import DialogueTokenizer
from data_pipelines.store import dataset as store
from data_pipelines.store.schema import recipe_hash

BATCH = 8  # dialogues whose channels are given to the unit encoder together
_FIT_RECORDINGS = 4000  # that voices are fitted on, the first of the split


class Source:
    """The dialogues of a clip dataset, each once: where either side is a record of its own, the
    first's.

    `needs_script`: dialogues without one are unusable. `voice`: the kind of voices
    (avjax/encoders/voices). `known_voices` {id: raw voices (S, 256)} of those that voices were
    fitted on, `mean_voices` {name: (256,)} of the speakers.
    """

    def __init__(self, clips, prefixes, painter: Painter | None, needs_script: bool = True,
                 voice: str = "statistics"):
        self.clips, self.prefixes, self.painter = clips, prefixes, painter
        self.needs_script, self.voice_maker = needs_script, voice_encoders.maker(
            voice, common_units.mesh())
        columns = ["speaker", "audio", "words", "identity", COLUMN,
                   *(painter.columns if painter else ())]
        wanted = ["id", "text", "events", *(p + c for p in prefixes for c in columns)]
        self.fields = tuple(c for c in dict.fromkeys(wanted) if c in clips.features)
        self.has_identity = all(f"{p}identity" in clips.features for p in prefixes)
        self._indices, self._sources, self.known_voices, self.mean_voices = {}, {}, {}, {}

    def indices(self, split: str) -> list[int]:
        if split not in self._indices:
            source = self.clips.source(split,
                                       ("id", *(["side"] if "side" in self.clips.features else [])))
            self._indices[split] = [i for i, row in enumerate(source)
                                    if row.get("side", "0") == "0"]
        return self._indices[split]

    def clip(self, split: str, index: int) -> dict:
        if split not in self._sources:
            self._sources[split] = self.clips.source(split, self.fields)
        return self._sources[split][index]

    def voices(self, records: Iterable[conversations.Conversation]) -> dict[str, np.ndarray]:
        """{id: (S, 256) raw vectors} of recordings, heard together; of who says too little here
        those of other recordings, NaN where there are none."""
        hearing, names = voice_encoders.Hearing(self.voice_maker), {}
        for record in records:
            id = record.clip["id"]
            names[id] = record.names
            for k, a in enumerate(record.audio if id not in self.known_voices else ()):
                if a.any():
                    hearing.add((id, k), a, conversations.SAMPLE_RATE)
        raw, silent = hearing.finish(), np.full(voice_encoders.WIDTH, np.nan, np.float32)
        out = {}
        for id, spoken_by in names.items():
            found = [raw.get((id, k), silent) for k in range(len(spoken_by))]
            out[id] = self.known_voices[id] if id in self.known_voices else np.stack(
                [x if np.isfinite(x).all() else self.mean_voices.get(name, x)
                 for name, x in zip(spoken_by, found, strict=True)])
        return out

    def record(self, clip) -> conversations.Conversation:
        """Raises store.Unusable."""
        try:
            tracks = [self.painter.frames(clip, p) for p in self.prefixes] if self.painter else ()
            return conversations.conversation(clip, self.prefixes, tracks,
                                              needs_script=self.needs_script)
        except Exception as error:
            raise common.unusable(error, clip["id"]) from None

    def usable(self, split: str, order=None) -> Iterator[conversations.Conversation]:
        """Recordings, without those that will be left out. UserError when there are no others."""
        found, refused = 0, collections.Counter()
        for i in self.indices(split) if order is None else order:
            try:
                record = self.record(self.clip(split, i))
            except store.Unusable as error:
                refused[error.reason] += 1
                continue
            found += 1
            yield record
        if not found:
            raise UserError("nothing usable in a split", where=f"{self.clips.dir}, {split}",
                            expected="a recording with a script "
                            "and the sound of every speaker",
                            found=", ".join(f"{n} x {why}" for why, n in refused.most_common()),
                            hint="mend the clips")

    def texts(self, split: str) -> Iterator[str]:
        for record in self.usable(split):
            yield from (x.text for t in record.script.turns for x in (t, *t.backchannels))


@dataclasses.dataclass
class Encoders:
    """What makes the features of one dataset, and what goes with them: the face reader and the
    vocoder, for listening and evaluation. tokens: None without scripts; pictures: a PictureCodec;
    it and the painter are None where nothing is seen."""

    tokens: DialogueTokenizer | None
    units: unit_library.UnitEncoder
    voices: voice_encoders.Voice
    faces: portrait.PortraitEncoder | None = None
    painter: Painter | None = None
    pictures: object = None
    reader: object = None
    vocoder: object = None
    sound: SoundLayers | None = None
    audio_tokens: sounding.AudioTokens | None = None
    given_faces: GivenFaces | None = None
    mel: dict = dataclasses.field(default_factory=lambda: dict(mel.SPEECH))

    def recipes(self) -> dict[str, dict]:
        """{feature: how it is made}, with the hash of everything fitted."""
        out = {"voices": with_hash(self.voices),
               "units": with_hash(self.units) | {"level": level.RECIPE}, "mel": dict(self.mel)}
        out |= {"audio": self.sound.recipe} if self.sound else {}
        out |= {"audio_tokens": self.audio_tokens.recipe | {"of": recipe_hash(self.sound.recipe)}
                } if self.audio_tokens else {}
        out |= {"tokens": self.tokens.recipe} if self.tokens else {}
        if self.painter:
            out |= {"portraits": self.painter.recipe, "faces": with_hash(self.faces)}
            if self.sound:
                out |= {name: sounding.SHAPES | {"portraits": self.painter.recipe}
                        for name in ("regions", "face_mask")}
            out |= {"motion": self.painter.motion_recipe} if self.painter.has_motion else {}
        if self.pictures:
            latents = with_hash(self.pictures)
            out |= {"latents": latents | {"pictures": self.painter.recipe}, "reference": latents}
        return out | {name: with_hash(codec) for name, codec in self._kept.items()}

    def codecs(self) -> dict[str, dict[str, np.ndarray]]:
        """What is kept with the dataset, by the names that decode.py and the systems look for."""
        out = {"units": self.units.arrays(), "voices": self.voices.arrays()}
        out |= {TOKENIZER: self.tokens.arrays()} if self.tokens else {}
        out |= {"faces": self.faces.arrays()} if self.faces else {}
        out |= {"vae": self.pictures.arrays()} if self.pictures else {}
        return out | {name: codec.arrays() for name, codec in self._kept.items()}

    @property
    def _kept(self) -> dict:
        """What makes no features but goes with them."""
        return {name: codec for name, codec in (("reader", self.reader), ("vocoder", self.vocoder))
                if codec}


def portrait_of(clip, prefix, painter: Painter) -> np.ndarray:
    if painter.is_cropped:
        return painter.portrait(clip, prefix)
    try:
        return portraits.prepared(clip[prefix + "portrait"], painter.recipe,
                                  f"{clip['id']}, {prefix}portrait")
    except UserError as error:
        raise store.Unusable(str(error).split(";")[0].split(" (")[0], found=str(error)) from None
    except Exception as error:
        raise common.unusable(error, clip["id"]) from None


def fit_units(job, source, split, kind, num_units, centroids, layer, seed, silence_db=0.0):
    """The encoder of the dialogues' channels; see common.units.encoder."""
    order = np.random.default_rng(seed).permutation(source.indices(split))

    def speech():
        records = source.usable(split, map(int, order))
        while batch := list(itertools.islice(records, BATCH)):
            yield [at_16k(a) for record in batch for a in record.audio]

    return common_units.encoder(job, speech, kind, num_units=num_units, centroids=centroids,
                                layer=layer, seed=seed, silence_db=silence_db)


def at_16k(audio_N: np.ndarray) -> np.ndarray:
    return resampled(audio_N, conversations.SAMPLE_RATE, common_units.SAMPLE_RATE)


def fit_voices(job, source, split) -> tuple[voice_encoders.Voice, dict[str, np.ndarray]]:
    """Fitted on the channels of the split; and the mean voice of every speaker there, by name."""
    def fit():
        names = {}

        def records():
            for record in itertools.islice(source.usable(split), _FIT_RECORDINGS):
                names[record.clip["id"]] = record.names
                yield record

        raw = source.voices(records())
        return {"ids": np.array(list(raw)), "names": np.array([names[id] for id in raw]),
                "raw": np.array(list(raw.values()))}

    arrays = job.once("voices", fit)
    names, raw = arrays["names"].ravel(), arrays["raw"].reshape(-1, voice_encoders.WIDTH)
    heard = voice_encoders.known(raw)
    source.mean_voices = {str(n): raw[heard & (names == n)].mean(0)
                          for n in np.unique(names[heard])}
    for index in np.flatnonzero(~heard):
        raw[index] = source.mean_voices.get(str(names[index]), np.nan)
    source.known_voices = dict(zip(map(str, arrays["ids"]), raw.reshape(arrays["raw"].shape),
                                   strict=True))
    names, raw = names[heard], raw[heard]
    encoder = source.voice_maker.fit(raw, names)
    return encoder, {str(n): encoder.scale(raw[names == n]).mean(0) for n in np.unique(names)}


def fit_faces(job, source, split, given: GivenFaces | None
              ) -> tuple[portrait.PortraitEncoder, dict[str, np.ndarray]]:
    """Fitted on one portrait a training speaker, or, of embeddings that are `given`, what says so;
    and those portraits, by name."""
    def fit():
        found = {}
        for record in source.usable(split):
            for name, p in zip(record.names, source.prefixes, strict=True):
                if name not in found:
                    with contextlib.suppress(store.Unusable):
                        found[name] = portrait_of(record.clip, p, source.painter)
        if not found:
            raise UserError("no portrait is usable", where=split, expected="one face a picture",
                            found="none")
        return {"names": np.array(sorted(found)),
                "portraits": np.stack([found[name] for name in sorted(found)])}

    arrays = job.once("portraits", fit)
    first = dict(zip(map(str, arrays["names"]), arrays["portraits"], strict=True))
    return (portrait.given(given.width) if given else portrait.fit(arrays["portraits"])), first


def load_sound(path: str, seed: int) -> SoundLayers:
    """What hears the sound that drives pictures: a published file, or a random network."""
    return SoundLayers.random(seed) if path == RANDOM_KIND else SoundLayers.from_checkpoint(path)


def load_pictures(path):
    return trained.load_picture_codec(pathlib.Path(path))


def load_reader(path, painter: Painter):
    """UserError unless it reads what `motion` holds here."""
    reader = trained.load_face_reader(pathlib.Path(path))
    recipes = [json.loads(json.dumps(r or {}))
               for r in (reader.recipe["motion"], painter.motion_recipe)]
    differ = [k for k in sorted({*recipes[0], *recipes[1]} - {"rate"})
              if recipes[0].get(k) != recipes[1].get(k)]
    if differ:
        raise UserError("the face reader was trained on another motion", where=str(path),
                        expected="that of these clips", found=f"another {', '.join(differ)}",
                        hint="train it on --features=pictures of these clips")
    return reader


def load_vocoder(path):
    return vocoders.load(path, mel.RECIPE) if path else None


def speakers_of(source, split, voices: dict[str, np.ndarray],
                pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names, identities, mean voices and portraits of the training speakers, those heard most
    first."""
    out = common.speakers(source.clips, split)
    known = [i for i, n in enumerate(out["names"]) if n in voices
             and (n in pictures or not source.painter)]
    out = {key: values[known] for key, values in out.items()}
    out["voices"] = np.stack([voices[n] for n in out["names"]])
    return out | ({"portraits": np.stack([pictures[n] for n in out["names"]])} if source.painter
                  else {})
