"""Who is on a portrait, as a vector: the slot of a face-recognition network, and its weightless
stand-in.

Two kinds. "given": embeddings that a recogniser of the user's has made (insightface's 512 numbers),
read from `<portrait>.face.npy` beside each picture; nothing is computed here. "pca", the stand-in,
all ours by choice:
  1. the picture is shrunk to 32 x 32 by averaging;
  2. it is turned upright: of all angles up to 40 degrees to either side that one at which the first
     principal components of the training portraits explain it best, within a circle (recognisers
     align faces by landmarks);
  3. a linear map gives its principal components, each divided by its deviation or by a tenth of the
     first one's where that is more. The map is not the components themselves but a ridge regression
     to them from slightly blurred and turned copies, so that such a copy is given the same vector.
It describes how a face looks, not who it is: two speakers who look alike have like codes.
Suffixes: N portraits, H W picture, A angles, D pixels, F embedding, K components.
"""

import dataclasses
import os
import pathlib

import numpy as np

from avjax.encoders.degrade import blur, rotate
from avjax.errors import UserError
from avjax.signal import pca

SIZE = 32
WIDTH = 64
GIVEN_WIDTH = 512  # insightface's
ANGLES = np.arange(-40, 41, 5)
MOST = 512  # portraits that are fitted on; more add little
_SMALLEST = 0.1  # of the first component's deviation
_UPRIGHT = 0.7  # a turned picture is believed only where less than this share of the error is left
_COPIES, _COPY_BLUR, _COPY_TURN, _RIDGE = 6, 1.0, 3.0, 1.0  # blur in pixels of 32 x 32, degrees
_BASIS = 16  # components that decide what is upright
_Y, _X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
_CIRCLE = np.repeat((_Y**2 + _X**2 < (SIZE / 2) ** 2).reshape(-1), 3)


@dataclasses.dataclass(frozen=True)
class PortraitEncoder:
    """The slot's interface: `recipe`, `width`, `__call__(portraits) -> (..., F)`, `arrays()`.
    `fitted` is None for "given"."""

    width: int
    fitted: dict[str, np.ndarray] | None = None  # mean (D,), map (D, F), offset (F,), basis (K, D)

    @property
    def recipe(self) -> dict:
        """How the vector is made, without the fitted arrays (the dataset adds their hash)."""
        if self.fitted is None:
            return {"kind": "given", "width": self.width, "scale": "as given"}
        return {"kind": "pca", "version": 1, "width": self.width, "size": SIZE,
                "pixels": "RGB / 255, area mean", "upright": f"{ANGLES[0]} to {ANGLES[-1]} degrees "
                                                             f"in steps of {ANGLES[1] - ANGLES[0]}",
                "scale": f"unit deviation, floor {_SMALLEST} of the first component's"}

    def __call__(self, portraits_NHWC: np.ndarray) -> np.ndarray:
        """(..., H, W, 3) uint8, at least 32 pixels a side -> (..., F) float32. UserError for kind
        "given", which cannot see."""
        if self.fitted is None:
            raise UserError("this face embedding is not computed here", where="recipes.json, faces",
                            expected="kind pca", found="kind given",
                            hint="give the embedding in <portrait>.face.npy beside the picture")
        shape = np.shape(portraits_NHWC)
        fit = self.fitted
        x_ND = self._upright(_pixels(np.reshape(portraits_NHWC, (-1, *shape[-3:]))))
        embedding_NF = (x_ND - fit["mean"]) @ fit["map"] + fit["offset"]
        return embedding_NF.reshape(*shape[:-3], self.width).astype(np.float32)

    def _upright(self, x_ND: np.ndarray) -> np.ndarray:
        pictures = x_ND.reshape(-1, SIZE, SIZE, 3)
        turned_AND = np.stack([rotate(pictures, a).reshape(x_ND.shape) for a in ANGLES])
        rest_AND = (turned_AND - self.fitted["mean"]) * _CIRCLE
        error_AN = (rest_AND**2).sum(-1) - ((rest_AND @ self.fitted["basis"].T) ** 2).sum(-1)
        as_it_is = len(ANGLES) // 2
        best_N = error_AN.argmin(0)
        best_N = np.where(error_AN.min(0) < _UPRIGHT * error_AN[as_it_is], best_N, as_it_is)
        return turned_AND[best_N, np.arange(len(x_ND))]

    def of_file(self, path: str | os.PathLike, portrait_HWC: np.ndarray) -> np.ndarray:
        """(F,) of a portrait that was read from `path`: computed, or read from beside it."""
        return self(portrait_HWC) if self.fitted is not None else read(beside(path), self.width)

    def arrays(self) -> dict[str, np.ndarray]:
        """Fitted arrays, as a dataset stores them for `from_recipe`."""
        return dict(self.fitted or {})


def fit(portraits_NHWC: np.ndarray, width: int = WIDTH, seed: int = 0) -> PortraitEncoder:
    """The stand-in from training portraits (N, H, W, 3) uint8, one or several a speaker, all of one
    size.

    Few portraits span few directions; what is left of the `width` numbers is then zero. UserError
    unless two differ.
    """
    x_ND = np.unique(_pixels(portraits_NHWC), axis=0)
    x_ND = x_ND[np.unique(np.linspace(0, len(x_ND) - 1, MOST).astype(int))]
    spread = np.linalg.svd(x_ND - x_ND.mean(0), compute_uv=False)
    rank = int((spread > max(1e-3 * spread[0], 1e-3)).sum())
    if rank < 1:
        raise UserError("portraits do not differ", where="faces",
                        expected="at least two different pictures", found=str(len(portraits_NHWC)),
                        hint="give portraits of at least two speakers")
    codec = pca.fit(x_ND, min(width, rank))
    wanted_NF = codec.encode(x_ND) * (codec.std / np.maximum(codec.std, _SMALLEST * codec.std[0]))
    wanted_NF = np.pad(wanted_NF, ((0, 0), (0, width - len(codec.std))))
    copies_MD = _copies(x_ND, np.random.default_rng([seed, 32]))
    wanted_MF = np.tile(wanted_NF, (len(copies_MD) // len(x_ND), 1))
    mean_D, offset_F = copies_MD.mean(0), wanted_NF.mean(0)
    centred_MD = (copies_MD - mean_D).astype(np.float64)
    gram_MM = centred_MD @ centred_MD.T + _RIDGE * np.eye(len(centred_MD))
    map_DF = centred_MD.T @ np.linalg.solve(gram_MM, wanted_MF - offset_F)
    basis_KD = np.linalg.qr((codec.components[:_BASIS] * _CIRCLE).T)[0].T
    arrays = {"mean": mean_D, "map": map_DF, "offset": offset_F, "basis": basis_KD}
    return PortraitEncoder(width, {k: np.asarray(v, np.float32) for k, v in arrays.items()})


def _copies(x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures, then as many again several times, each blurred and turned a little."""
    out = [x_ND]
    for _ in range(_COPIES):
        out.append(np.stack([blur(rotate(x, rng.uniform(-_COPY_TURN, _COPY_TURN)),
                                  rng.uniform(0, _COPY_BLUR)).reshape(-1)
                             for x in x_ND.reshape(-1, SIZE, SIZE, 3)]))
    return np.concatenate(out)


def given(width: int = GIVEN_WIDTH) -> PortraitEncoder:
    """For embeddings that come from elsewhere."""
    return PortraitEncoder(width)


def beside(path: str | os.PathLike) -> pathlib.Path:
    """Path of a portrait's embedding: a.png -> a.face.npy."""
    return pathlib.Path(path).with_suffix(".face.npy")


def read(path: str | os.PathLike, width: int = GIVEN_WIDTH) -> np.ndarray:
    """(F,) float32 of a .npy file that holds (F,), or (T, F) of several pictures of one person, of
    which it is the mean. UserError: missing, no array, another width, not finite."""
    where = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError("no face embedding", where=where,
                        expected=f"a .npy file of {width} numbers", found="nothing",
                        hint="save the recogniser's embedding of the portrait there")
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError("unreadable face embedding", where=where, expected="a .npy file",
                        found=str(error),
                        hint="save it again with numpy.save") from error
    fits = x.dtype.kind in "fiu" and x.ndim in (1, 2) and x.size and x.shape[-1] == width
    x_TF = np.asarray(x, np.float32).reshape(-1, width) if fits else None
    if x_TF is None or not np.isfinite(x_TF).all() or not x_TF.any(1).all():
        raise UserError("not a face embedding of this model", where=where,
                        expected=f"{width} finite numbers, not all zero",
                        found=f"{x.dtype} {x.shape}", hint="use the recogniser that the model was "
                                                           "trained with")
    return x_TF.mean(0)


def from_recipe(recipe: dict, arrays: dict[str, np.ndarray] | None,
                where: str = "codecs/faces.npz") -> PortraitEncoder:
    """The encoder of a dataset or workdir. UserError for another kind and for missing or foreign
    arrays."""
    kind = recipe.get("kind")
    width = int(recipe.get("width", 0))
    arrays = arrays or {}
    if kind == "given" and width:
        return given(width)
    if kind != "pca" or not width:
        raise UserError("unknown face embedding", where="recipes.json, faces",
                        expected="kind pca or given, with a width", found=repr(kind),
                        hint="extract the features with one that this version has")
    pixels = SIZE * SIZE * 3
    wanted = {"mean": (pixels,), "map": (pixels, width), "offset": (width,),
              "basis": (None, pixels)}
    found = {name: np.shape(arrays[name]) for name in wanted if name in arrays}
    if found != {name: (found.get(name, (0,))[0] if None in shape else shape[0], *shape[1:])
                 for name, shape in wanted.items()}:
        raise UserError("face embedding of another make", where=where, expected=str(wanted),
                        found=str(found),
                        hint="extract the features again")
    return PortraitEncoder(width, {name: np.asarray(arrays[name], np.float32) for name in wanted})


def shrink(pictures_NHWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, H, W, C) -> (N, height, width, C) float32 by area means, the right way down: no aliasing,
    any ratio."""
    rows, columns = _areas(pictures_NHWC.shape[1], height), _areas(pictures_NHWC.shape[2], width)
    return np.einsum("hH,NHWC,wW->NhwC", rows, np.asarray(pictures_NHWC, np.float32), columns,
                     optimize=True)


def _pixels(portraits_NHWC: np.ndarray) -> np.ndarray:
    shape = np.shape(portraits_NHWC)
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < SIZE or not shape[0]:
        raise UserError("no portraits", where="faces",
                        expected=f"(N, H, W, 3) pictures of at least {SIZE} pixels a side",
                        found=str(shape), hint="crop the portraits larger")
    return shrink(portraits_NHWC, SIZE, SIZE).reshape(shape[0], -1) / np.float32(255)


def _areas(size: int, new_size: int) -> np.ndarray:
    """(new_size, size) share of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new_size + 1) * (size / new_size)
    low = edges[:-1, None]
    high = edges[1:, None]
    at = np.arange(size)[None]
    return (np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0,
                    None) / (size / new_size)).astype(np.float32)
