"""What is looked at: a checkpoint of TAVID, or of one of its parts, and the features it is given.

Suffixes: N pictures or speakers, H W size, F face embedding, V voice.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator

import jax
import numpy as np

from avjax.codecs import pictures
from avjax.encoders import portrait
from avjax.errors import UserError
from avjax.systems import tavid
from avjax.systems.tavid import acoustic, mapper, speaker, text
from data_pipelines.store.schema import recipe_hash
from eval.run.runner import check_split, fingerprint

PARTS = {"speaker": speaker.System, "acoustic": acoustic.System, "text": text.System,
         "mapper": mapper.System}
_AT_ONCE = 32  # pictures; one size, one compilation


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One speaker of a split.

    Attributes:
      name: of the corpus.
      portrait: (H, W, 3) uint8; None where that was not asked for.
      face: (F,) its embedding; None likewise.
      voice: (V,) the mean over the speaker's recordings in the split.
      recorded: (recordings, V) each of them.
      identity: of a puppet, else None.
      at: (index of an example, place among its speakers) of every recording.
    """

    name: str
    portrait: np.ndarray | None
    face: np.ndarray | None
    voice: np.ndarray
    recorded: np.ndarray
    identity: np.ndarray | None
    at: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint beside its data.

    Attributes:
      system, params: the whole of TAVID, or one of PARTS.
      dataset: of TAVID's features.
      decoder: data_pipelines.decode.Decoder of it.
      clips: that the features were made from, None where they are not at hand.
      train_split: what the checkpoint has learned from.
      seed, batch_size: of the noise and of generation.
      max_examples: dialogues of a split that are generated; 0 = all.
    """

    system: object
    params: object
    dataset: object
    decoder: object
    clips: object = None
    train_split: str = "train"
    seed: int = 0
    batch_size: int = 4
    max_examples: int = 0

    def part(self, name: str) -> tuple[object, object]:
        """(system, parameters) of one of PARTS. UserError: this checkpoint has none."""
        if isinstance(self.system, tavid.System) and name in self.system.parts:
            return self.system.parts[name], self.params[name]
        if isinstance(self.system, PARTS[name]):
            return self.system, self.params
        raise UserError("this checkpoint has no part that is looked at here",
                        where="config.system.name",
                        expected=f"tavid, or tavid.{name}", found=self.system.config.name,
                        hint="give the config and the workdir of that training")

    def has(self, name: str) -> bool:
        """Whether `part` of it can be had."""
        whole = isinstance(self.system, tavid.System) and name in self.system.parts
        return whole or isinstance(self.system, PARTS[name])

    def key(self, *names: str) -> str:
        """Names a row by all that decides it."""
        return "|".join((*names, self._made_by))

    @functools.cached_property
    def _made_by(self) -> str:
        sums = {k: v for k, v in self.dataset.checksums.items() if k != "dataset_info.json"}
        return recipe_hash({"params": fingerprint(self.params), "data": sums, "seed": self.seed,
                            "sound": self.decoder.sound_by,
                            "system": json.loads(self.system.config.to_json_best_effort())})

    # ---- speakers

    def source(self, split: str, fields: tuple[str, ...]):
        """Examples of a split, with those of the fields that are there. UserError: no such split,
        or one of the names is nowhere."""
        check_split(self.dataset, split)
        return self.dataset.source(split, tuple(f for f in fields if f in self.dataset.features))

    def need(self, *fields: str) -> None:
        """UserError for features that are not there."""
        if missing := [name for name in fields if name not in self.dataset.features]:
            raise UserError("features that this check needs", where=str(self.dataset.dir),
                            expected=", ".join(fields), found=f"without {', '.join(missing)}",
                            hint="extract them with avjax extract --features=tavid")

    def people(self, split: str, seen: bool = True) -> list[Person]:
        """Every speaker of a split, in order of first appearance; `seen`: with portraits."""
        shown = ("portraits", "faces") if seen else ()
        self.need("speakers", "voices", *shown)
        found: dict[str, dict] = {}
        rows = self.source(split, ("id", "speakers", "voices", "identity", *shown))
        for index in range(len(rows.ids)):
            row = rows[index]
            for place, name in enumerate(json.loads(row["speakers"])):
                one = found.setdefault(name, {"voices": [], "at": []} | {
                    column: np.asarray(row[column][place])
                    for column in (*shown, "identity") if column in row})
                one["voices"].append(np.asarray(row["voices"][place], np.float64))
                one["at"].append((index, place))
        return [Person(name, x.get("portraits"), x.get("faces"), np.mean(x["voices"], 0),
                       np.stack(x["voices"]), x.get("identity"), tuple(x["at"]))
                for name, x in found.items()]

    def known(self) -> set[str]:
        """Names of all who speak in the training split."""
        rows = self.source(self.train_split, ("id", "speakers"))
        return {name for i in range(len(rows.ids)) for name in json.loads(rows[i]["speakers"])}

    # ---- voices of faces

    @functools.cached_property
    def embeds(self) -> bool:
        """Whether a face embedding can be made of a picture here: not of a recogniser's numbers."""
        mapper, _ = self.part("speaker")
        return not mapper.config.face_dim or self._embed.fitted is not None

    @functools.cached_property
    def _embed(self) -> portrait.PortraitEncoder:
        return portrait.from_recipe(self.dataset.recipes.get("faces", {}),
                                    self.decoder.codecs.get("faces"))

    @functools.cached_property
    def _map(self) -> pictures.PictureCodec:
        return pictures.from_recipe(self.dataset.recipes.get("latents", {}),
                                    self.decoder.codec("vae"))

    @functools.cached_property
    def _hears(self):
        mapper, _ = self.part("speaker")
        return jax.jit(lambda params, given: mapper.generate(params, given, None)["voices"])

    def faces(self, portraits_NHWC: np.ndarray) -> np.ndarray:
        """(N, F) embeddings of pictures; see `embeds`."""
        return self._embed(portraits_NHWC)

    def face_of_file(self, path, portrait_HWC: np.ndarray) -> np.ndarray:
        """(F,) of a picture that was read from a file; UserError: not beside it, where it must
        be."""
        return self._embed.of_file(path, portrait_HWC)

    def voices(self, portraits_NHWC: np.ndarray, faces_NF: np.ndarray | None = None) -> np.ndarray:
        """(N, V) float32: what the Speaker Mapper makes of uint8 pictures (N, H, W, 3), framed as
        in training, and of face embeddings; None: made of the pictures."""
        return np.concatenate(list(self._voices(portraits_NHWC, faces_NF)))

    def _voices(self, portraits_NHWC, faces_NF) -> Iterator[np.ndarray]:
        mapper, params = self.part("speaker")
        for start in range(0, len(portraits_NHWC), _AT_ONCE):
            seen = portraits_NHWC[start:start + _AT_ONCE]
            faces = self.faces(seen) if faces_NF is None else faces_NF[start:start + _AT_ONCE]
            given = {"faces": np.asarray(faces, np.float32)}
            if mapper.config.inputs == "pixels":
                given[mapper.picture] = seen
            elif mapper.picture:
                given[mapper.picture] = np.asarray(self._map.encode(seen), np.float32)
            short = _AT_ONCE - len(seen)
            filled = {k: np.concatenate([x, np.repeat(x[-1:], short, 0)]) for k, x in given.items()}
            out = np.asarray(self._hears(params, filled))[:len(seen)]
            if not np.isfinite(out).all():
                raise UserError("the model makes voices that are not finite", where="tavid.speaker",
                                expected="finite numbers", found="others",
                                hint="the training diverged: use an earlier checkpoint")
            yield out
