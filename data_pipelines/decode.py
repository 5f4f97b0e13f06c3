"""Streams -> what a person hears and sees, through the codecs that a dataset's recipes name.

Every method takes the whole dict of streams and picks what it needs, so its callers know nothing of
the system that made them. Waveforms are at the system's own rate; face, pose and pictures at `fps`:
30 Hz, on the clips' clock, or 25 Hz where the model makes pictures itself.
"""

import functools
import importlib
import importlib.util
import itertools
import pathlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from avjax.codecs import eigenface
from avjax.codecs.bigvgan import BigVGAN
from avjax.errors import UserError
from avjax.signal import griffin_lim, mel
from avjax.storage import records
from avjax.systems.api import Spec
from data_pipelines import features, vocoders
from data_pipelines import geometry as geometries
from data_pipelines.declared import subclass_in
from data_pipelines.media import faces
from data_pipelines.store.schema import CODECS_DIR, FAMILY, RECIPES_FILE

FPS = 30
AT_ONCE = 64  # pictures made at a time
Streams = Mapping[str, np.ndarray]


class StreamDecoder:
    """How one family of systems' streams are decoded: data_pipelines/features/<family>/decode.py.

    Methods take the streams of one speaker.

    Attributes:
      heard, seen: the streams that tell whether there is sound, and something to see.
      mel_recipe: of `mel`; its "sample_rate" is that of `waveform`.
      fps: of faces, poses and pictures.
      has_face: whether motion is a face code and a pose.
      face_recipe: the face code's, {} without one.
      drawing: how puppets are framed, other than render's defaults.
      sound_by: what makes the sound, where the streams are sound already.
      paints: whether the streams are of pictures rather than of what moves them.
      specs: {stream: Spec}, whose `speaker_axis` says which streams are of several speakers.
      arrays: streams that are written as they are, as OUT.<stream>.npy, where there are such.

    Args:
      decoder: the `Decoder` whose recipes and codecs to use.
    """

    heard: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    mel_recipe: Mapping = {}
    fps: int = FPS
    has_face: bool = False
    face_recipe: Mapping = {}
    drawing: Mapping[str, float] = {}
    sound_by: str = ""
    paints: bool = False
    specs: Mapping[str, Spec] = {}
    arrays: tuple[str, ...] = ()

    def __init__(self, decoder: "Decoder"):
        self._decoder = decoder

    @classmethod
    def matches(cls, recipes: Mapping[str, dict]) -> bool:
        """Whether a dataset that does not name its family (of an older version) is of this one."""
        return False

    def speakers(self, streams: Streams) -> list[dict]:
        """The streams of each speaker, without the speaker axis; of one speaker as they are."""
        apart = {}
        for name in streams:
            spec = self.specs.get(name)
            one = spec is None or spec.speaker_axis is None
            if not one and np.ndim(streams[name]) == len(spec.shape) - 1:  # else one speaker's
                apart[name] = np.moveaxis(np.asarray(streams[name]), spec.speaker_axis - 1, 0)
        if not apart:
            return [dict(streams)]
        count = len(next(iter(apart.values())))
        return [{name: x[s] for name, x in apart.items()} for s in range(count)]

    def mel(self, streams: Streams) -> np.ndarray:
        """(T', bands) normalised log-mel, frame by frame: that of a part is a part of the
        whole's."""
        raise NotImplementedError

    @functools.cached_property
    def vocoder(self) -> BigVGAN | None:
        """Makes sound of mel: the one that the decoder was given, else the dataset's; None =
        Griffin-Lim. UserError: trained on another mel."""
        vocoder = self._decoder.vocoder
        if vocoder is None and self._decoder.may_keep and vocoders.NAME in self._decoder.recipes:
            vocoder = BigVGAN.from_recipe(self._decoder.recipes[vocoders.NAME],
                                          self._decoder.codec(vocoders.NAME))
            vocoder.check(self.mel_recipe)
        return vocoder

    def waveform(self, streams: Streams) -> np.ndarray:
        """(N,) float32 samples, by the vocoder or by Griffin-Lim."""
        log_mel_TM = mel.denormalise(self.mel(streams), self.mel_recipe)
        if self.vocoder:
            return self.vocoder.waveform(log_mel_TM, self.mel_recipe)
        return griffin_lim.waveform(log_mel_TM, iterations=self._decoder.iterations,
                                    recipe=self.mel_recipe)

    def motion_codes(self, streams: Streams) -> np.ndarray:
        """Motion (T, M) as the model makes it, at its own rate."""
        return np.asarray(streams[self.seen[0]], np.float32)

    def face(self, streams: Streams) -> np.ndarray:
        """Face codes (N, F) at `fps`."""
        raise NotImplementedError

    def pose_z(self, streams: Streams) -> np.ndarray:
        """z-scored pose (N, 7) at `fps`."""
        raise NotImplementedError

    def live_sound(self, block: int):
        """A new live.parts.OwnSound, by so many mel frames; None where a vocoder makes sound."""
        return None

    def live_motion(self):
        """A new live.parts.Motion, which decodes streams that go on; None: there is none."""
        return None

    def owners_arrays(self, streams: Streams) -> dict[str, np.ndarray]:
        """{name: array} of motion in the layout of the corpus' owners, whose own renderers draw
        it; {} where there is no such layout."""
        return {}

    def paints_on(self, given: Streams) -> bool:
        """Whether streams that were given bring what pictures are painted on."""
        return False

    def painter(self, streams: Streams) -> tuple[int, Callable[[slice], np.ndarray]] | None:
        """(pictures, function of a slice of them that gives (n, H, W, 3) uint8) where the streams
        are of pictures; else None."""
        return None


def families() -> dict[str, type[StreamDecoder]]:
    """{folder of data_pipelines/features: its StreamDecoder}."""
    found = (m.name for m in pkgutil.iter_modules(features.__path__)
             if importlib.util.find_spec(f"{features.__name__}.{m.name}.decode"))
    return {name: subclass_in(importlib.import_module(f"{features.__name__}.{name}.decode"),
                              StreamDecoder) for name in sorted(found)}


def family_of(recipes: Mapping[str, dict]) -> type[StreamDecoder]:
    """Of the family that the recipes name; of older datasets the one that matches them. One that
    decodes nothing where there is none."""
    known = families()
    name = recipes.get(FAMILY, {}).get("kind")
    if name is not None:
        if name not in known:
            raise UserError("streams of an unknown family", where=f"{RECIPES_FILE}, {FAMILY}",
                            expected=" or ".join(known), found=repr(name),
                            hint="put the folder that holds data_pipelines/features/"
                                 f"{name}/decode.py on PYTHONPATH")
        return known[name]
    return next((family for family in known.values() if family.matches(recipes)), StreamDecoder)


class Decoder:
    """The codecs of one dataset, or of a workdir that was trained on it.

    How a family's streams are decoded is the matter of its `StreamDecoder`. All methods but
    `speakers` take the streams of one speaker.

    Args:
      recipes: {feature: recipe}; those of the streams say which codec decodes them.
      codecs: {codec: {array name: array}}.
      iterations: Griffin-Lim's.
      geometry, lip_vertices: files of a Codec Avatar's geometry, see `geometry.load`.
      vocoder: what makes sound of mel, not the dataset's: see `vocoders.load`; or GRIFFIN_LIM.

    Attributes:
      text_to_tokens: of the workdir, see features/common/text_to_tokens.py; None = it has none.
      workdir: where it was made from one; it may hold networks that prompts go through.

    Raises UserError for a vocoder of another mel.
    """

    text_to_tokens: Callable | None = None
    workdir: pathlib.Path | None = None

    def __init__(self, recipes: Mapping[str, dict], codecs: Mapping[str, Mapping[str, np.ndarray]],
                 iterations: int = 32, vocoder: str = "", geometry: str = "",
                 lip_vertices: str = ""):
        self.recipes, self.codecs, self.iterations = recipes, codecs, iterations
        self.may_keep = vocoder != vocoders.GRIFFIN_LIM  # the dataset's vocoder counts
        self._family = family_of(recipes)(self)
        self.vocoder = (vocoders.load(vocoder, self._family.mel_recipe)
                        if vocoder and self.may_keep else None)
        self.geometry = geometries.of_flags(geometry, lip_vertices, codecs, self.face_kind)

    @property
    def decoding(self) -> dict[str, str]:
        """How it decodes, where that is not as usual; goes into the recipes of results."""
        vocoder = self._family.vocoder
        return {"vocoder": f"BigVGAN {vocoder.recipe['weights']}"} if vocoder else {}

    @property
    def sound_by(self) -> str:
        """What makes sound of mel, for the reader."""
        made_by = self._family.sound_by or f"Griffin-Lim, {self.iterations} iterations"
        return self.decoding.get("vocoder", made_by)

    @property
    def family(self) -> StreamDecoder:
        """How streams are decoded."""
        return self._family

    @classmethod
    def from_dataset(cls, dataset, **kw) -> "Decoder":
        """Of an opened dataset."""
        return cls(dataset.recipes, {name: dataset.codec(name) for name in dataset.codecs}, **kw)

    @classmethod
    def from_workdir(cls, workdir, *, vocoder: str = "", **kw) -> "Decoder":
        """Of a training job's folder, which keeps its dataset's recipes and codecs; without a
        `vocoder`, WORKDIR/vocoder is used where it is there. UserError when they are not there, or
        damaged."""
        workdir = pathlib.Path(workdir)
        path = workdir / RECIPES_FILE
        if not path.is_file():
            raise UserError("not a work folder of a trained system", where=str(workdir),
                            expected=f"a {RECIPES_FILE} in it", found="none",
                            hint="give the --workdir that avjax train wrote")
        codecs = {file.stem: records.read_arrays(file)
                  for file in sorted((workdir / CODECS_DIR).glob("*.npz"))}
        decoder = cls(records.read_json(path), codecs,
                      vocoder=vocoder or vocoders.in_workdir(workdir), **kw)
        decoder.workdir = workdir
        return decoder

    def speakers(self, streams: Streams) -> list[dict]:
        """The streams of each speaker, without the speaker axis (see `StreamDecoder.specs`); of a
        system of one speaker the streams as they are."""
        return self._family.speakers(streams)

    # ---- sound

    @property
    def sample_rate(self) -> int:
        """Of `waveform`."""
        return self._family.mel_recipe["sample_rate"]

    def has_audio(self, streams: Streams) -> bool:
        """Whether there is something to hear."""
        return any(len(streams.get(name, ())) > 0 for name in self._family.heard)

    def mel(self, streams: Streams) -> np.ndarray:
        """(T', 80) normalised log-mel."""
        return self._family.mel(streams)

    def waveform(self, streams: Streams) -> np.ndarray:
        """(N,) float32 samples at `sample_rate`, by a vocoder or Griffin-Lim."""
        return self._family.waveform(streams)

    # ---- face and head

    @property
    def fps(self) -> int:
        """Of faces, poses and pictures."""
        return self._family.fps

    @property
    def face_kind(self) -> str:
        """"puppet" or "eigenface"; another kind, or "", where the motion is no face code."""
        return self._family.face_recipe.get("kind", "")

    def has_motion(self, streams: Streams) -> bool:
        """Whether there is something to see."""
        return any(len(streams.get(name, ())) > 0 for name in self._family.seen)

    @property
    def has_face(self) -> bool:
        """Whether motion is a face code and a pose; if not, `motion_codes` are all that can be had
        of it."""
        return self._family.has_face

    def motion_codes(self, streams: Streams) -> np.ndarray:
        """Motion (T, M) as the model makes it, at its own rate."""
        return self._family.motion_codes(streams)

    def face(self, streams: Streams) -> np.ndarray:
        """Face codes (N, F) at `fps`."""
        return self._family.face(streams)

    def articulators(self, streams: Streams) -> dict[str, np.ndarray]:
        """{articulator: (N,)} of puppets at `fps`, in their own units."""
        if self.face_kind != "puppet":
            raise UserError("these faces have no named articulators", where="recipes.json, face",
                            expected="kind puppet",
                            found=self.face_kind, hint="use .frames")
        return self._articulators_of(self.face(streams))

    def _articulators_of(self, face_NF: np.ndarray) -> dict[str, np.ndarray]:
        from data_pipelines.puppets import face_code

        return face_code.decode(face_NF, self.codec("face"))

    @property
    def tells_lips(self) -> bool:
        """Whether `lips` and `smile` can be had."""
        return self.face_kind == "puppet" or bool(self.geometry and self.geometry.lips)

    def lips(self, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
        """(inner-lip aperture, mouth width) at `fps`, each (N,), in the same units."""
        if self.geometry:
            return self.geometry.mouth(self.face(streams))
        from data_pipelines.puppets import face_code

        return face_code.lips(self.articulators(streams))

    def smile(self, streams: Streams) -> np.ndarray:
        """(N,) at `fps`, in the faces' own unit."""
        if self.geometry:
            return self.geometry.smile(self.face(streams))
        return self.articulators(streams)["smile"]

    def pose(self, streams: Streams) -> np.ndarray:
        """(N, 7) at `fps`: unit quaternion wxyz, then translation."""
        return self.pose_of(self._family.pose_z(streams))

    def pose_of(self, pose_z_N7: np.ndarray) -> np.ndarray:
        """z-scored pose -> as `pose`."""
        stats = self.codec("pose")
        pose = pose_z_N7 * stats["std"] + stats["mean"]
        if pose.shape[-1] != 7:  # joint angles
            return pose.astype(np.float32)
        norm = np.linalg.norm(pose[:, :4], axis=-1, keepdims=True)
        return np.concatenate([pose[:, :4] / np.maximum(norm, 1e-6), pose[:, 4:]],
                              axis=-1).astype(np.float32)

    @property
    def draws(self) -> bool:
        """Whether `frames` can be had."""
        return self.face_kind in ("puppet", "eigenface") or self._family.paints

    def can_draw(self, streams: Streams) -> bool:
        """Whether `frames` of these can be had, by what they bring too."""
        return self.draws or self._family.paints_on(streams)

    def frames(self, streams: Streams, *, speaker: str = "", identity=None) -> np.ndarray:
        """All of `pictures` at once, (N, H, W, 3) uint8."""
        return self._painter(streams, speaker, identity)[1](slice(None))

    def pictures(self, streams: Streams, *, speaker: str = "",
                 identity=None) -> tuple[int, Iterator[np.ndarray]]:
        """How many pictures there are, at `fps`, and each (H, W, 3) uint8, drawn when it is asked
        for: an hour of 256 x 256 is 21 GB. Decoded where the streams are of pictures; else puppets
        are drawn by `identity`, eigenfaces are decoded by `speaker` and moved as the head is.
        UserError where nothing here can draw."""
        count, draw = self._painter(streams, speaker, identity)
        parts = (draw(slice(first, first + AT_ONCE)) for first in range(0, count, AT_ONCE))
        return count, itertools.chain.from_iterable(parts)

    def _painter(self, streams, speaker, identity):
        """(pictures, function of a slice of them)."""
        if painter := self._family.painter(streams):
            return painter
        draw = self.drawer(speaker, identity)
        codes_NF, pose_N7 = self.face(streams), self.pose(streams)
        count = min(len(codes_NF), len(pose_N7))
        return count, lambda part: draw(codes_NF[:count][part], pose_N7[:count][part])

    def drawer(self, speaker: str, identity) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function of face codes (n, F) and as many poses (n, 7) that draws (n, H, W, 3) uint8.
        UserError where nothing here can draw."""
        if self.face_kind == "puppet":
            from data_pipelines.puppets import render

            identity = np.asarray(identity, np.float32)
            return lambda codes_NF, pose_N7: render.render(
                self._articulators_of(codes_NF), pose_N7, identity, **self._family.drawing)
        if self.face_kind != "eigenface":
            raise UserError("nothing here can draw this motion", where="recipes.json, motion",
                            expected="puppet or eigenface", found=self.face_kind
                            or self.recipes.get("motion", {}).get("kind", "none"),
                            hint="render it with the codec that made it")
        codec = eigenface.unpack(self.codec("face"), speaker)
        return lambda codes_NF, pose_N7: faces.compose(codec.decode(codes_NF), pose_N7)

    def codec(self, name: str) -> Mapping[str, np.ndarray]:
        """The arrays of one codec. UserError when they are missing."""
        if name not in self.codecs:
            raise UserError("codec missing", where=f"{CODECS_DIR}/{name}.npz",
                            expected="the arrays fitted with the data", found=", ".join(self.codecs)
                            or "none", hint="extract the features again")
        return self.codecs[name]
