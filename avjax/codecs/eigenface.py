"""Face crops of one identity <-> a short code, by principal components of the pixels (Turk &
Pentland 1991).

One codec an identity: codes of different speakers do not mean the same thing. A dataset stores all
of them in one npz, keyed "<speaker>/<array>". Suffixes: N frames, H W C image, K components.
"""

import dataclasses

import numpy as np

from avjax.errors import UserError
from avjax.signal import pca

SIZE = 96
COMPONENTS = 32


def recipe(size: int = SIZE, components: int = COMPONENTS) -> dict:
    """The definition of the codes, without the fitted arrays (the dataset adds their hash)."""
    return {"kind": "eigenface", "size": size, "components": components, "pixels": "RGB / 255",
            "codes": "z-scored",
            "rate": 30.0}


@dataclasses.dataclass(frozen=True)
class Eigenface:
    """The codec of one identity."""

    codec: pca.LinearCodec
    shape: tuple[int, int, int]

    def encode(self, frames_NHWC: np.ndarray, chunk: int = 256) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, K) float32 z-scored codes. Raises UserError on another size."""
        if frames_NHWC.shape[1:] != self.shape:
            raise UserError("face crops of another size than the codec's", expected=str(self.shape),
                            found=str(frames_NHWC.shape[1:]),
                            hint="crop again with the codec's size")
        width = int(np.prod(self.shape))
        parts = [self.codec.encode(frames_NHWC[i:i + chunk].reshape(-1, width) / np.float32(255))
                 for i in range(0, len(frames_NHWC), chunk)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.codec.std)), np.float32)

    def decode(self, codes_NK: np.ndarray, chunk: int = 256) -> np.ndarray:
        """(N, K) codes -> (N, H, W, 3) uint8."""
        parts = [np.clip(self.codec.decode(codes_NK[i : i + chunk]) * 255 + 0.5, 0,
                         255).astype(np.uint8)
                 for i in range(0, len(codes_NK), chunk)]
        return (np.concatenate(parts) if parts
                else np.zeros((0,), np.uint8)).reshape(-1, *self.shape)

    def arrays(self) -> dict[str, np.ndarray]:
        """Stored form: the linear codec's arrays and the image's shape."""
        return {**self.codec.arrays(), "shape": np.asarray(self.shape, np.int32)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], where: str = "codec") -> "Eigenface":
        """Inverse of `arrays`."""
        if "shape" not in arrays:
            raise UserError("not an eigenface codec", where=where, expected="an array named shape",
                            found=", ".join(sorted(arrays)))
        return cls(pca.LinearCodec.from_arrays(arrays, where),
                   tuple(int(n) for n in arrays["shape"]))


def fit(frames_NHWC: np.ndarray, components: int = COMPONENTS) -> Eigenface:
    """The codec of one identity from (N, H, W, 3) uint8 crops; N of a few thousand at most (they
    become float32)."""
    count = len(frames_NHWC)
    if count <= components:
        raise UserError("too few face frames for the codec", expected=f"> {components}",
                        found=str(count), hint="record more of this speaker, or use fewer "
                                               "components")
    pixels_ND = frames_NHWC.reshape(count, -1).astype(np.float32) / 255
    return Eigenface(pca.fit(pixels_ND, components), tuple(frames_NHWC.shape[1:]))


def pack(codecs: dict[str, Eigenface]) -> dict[str, np.ndarray]:
    """Several identities' codecs as one flat dict, keyed "<speaker>/<array>"."""
    return {f"{speaker}/{name}": array for speaker, codec in codecs.items() for name,
            array in codec.arrays().items()}


def unpack(arrays: dict[str, np.ndarray], speaker: str,
           where: str = "codecs/face.npz") -> Eigenface:
    """One identity's codec out of `pack`'s dict. Raises UserError naming the speakers that there
    are."""
    prefix = f"{speaker}/"
    mine = {name[len(prefix):]: array for name, array in arrays.items() if name.startswith(prefix)}
    if not mine:
        known = sorted({name.rsplit("/", 1)[0] for name in arrays})
        raise UserError("no face codec of this speaker", where=where,
                        expected=f"one of {', '.join(known)}", found=repr(speaker),
                        hint="name a speaker of the dataset")
    return Eigenface.from_arrays(mine, where)
