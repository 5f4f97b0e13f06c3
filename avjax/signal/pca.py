"""The weightless codec: principal components, fitted on the data itself.

`Moments` gathers mean and covariance in a stream (Chan et al. 1979), for vectors of up to a few
thousand entries; `fit` also takes fewer, longer vectors (images) through the Gram matrix of the
samples ("snapshot" method, Sirovich 1987), where no covariance of pixels could be stored. Both give
the same orthonormal components. float64 inside,
float32 out. Suffixes: N samples, D entries, K components.
"""

import dataclasses

import numpy as np

from avjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LinearCodec:
    """x ~ mean + (z * std) @ components, z of zero mean and, as fitted, unit variance on the data
    that it was fitted on."""

    mean: np.ndarray  # (D,) float32
    components: np.ndarray  # (K, D) float32, orthonormal rows, by falling variance
    std: np.ndarray  # (K,) float32, of the components' scores
    explained: float  # share of the variance that the K components carry

    def encode(self, x_ND: np.ndarray) -> np.ndarray:
        """(..., D) -> (..., K) z-scored codes, float32."""
        return (np.asarray(x_ND, np.float32) - self.mean) @ self.components.T / self.std

    def decode(self, z_NK: np.ndarray) -> np.ndarray:
        """(..., K) codes -> (..., D), float32."""
        return self.mean + (np.asarray(z_NK, np.float32) * self.std) @ self.components

    def arrays(self) -> dict[str, np.ndarray]:
        """Fitted arrays, as a dataset stores them for `from_arrays`."""
        return {"mean": self.mean, "components": self.components, "std": self.std,
                "explained": np.float32(self.explained)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], where: str = "codec") -> "LinearCodec":
        """Inverse of `arrays`. Raises UserError when an entry is missing or shapes disagree."""
        missing = {"mean", "components", "std"} - set(arrays)
        if missing:
            raise UserError("not a linear codec", where=where, expected="mean, components, std",
                            found=f"without {', '.join(sorted(missing))}")
        mean, components, std = (np.asarray(arrays[k], np.float32)
                                 for k in ("mean", "components", "std"))
        if components.shape != (len(std), len(mean)):
            raise UserError("linear codec's shapes disagree", where=where,
                            expected=f"({len(std)}, {len(mean)})",
                            found=str(components.shape))
        return cls(mean, components, std, float(arrays.get("explained", np.nan)))


class Moments:
    """Streaming mean and covariance of D-vectors: `add` batches in any split, `codec` at the end.
    O(D^2) memory."""

    def __init__(self, size: int):
        self.count = 0
        self.mean_D = np.zeros(size)
        self.scatter_DD = np.zeros((size, size))

    def add(self, x_ND: np.ndarray) -> None:
        x_ND = np.asarray(x_ND, np.float64).reshape(-1, len(self.mean_D))
        if not len(x_ND):
            return
        count = self.count + len(x_ND)
        batch_mean_D = x_ND.mean(0)
        centred_ND = x_ND - batch_mean_D
        shift_D = batch_mean_D - self.mean_D
        self.scatter_DD += centred_ND.T @ centred_ND
        self.scatter_DD += np.outer(shift_D, shift_D) * (self.count * len(x_ND) / count)
        self.mean_D = self.mean_D + shift_D * (len(x_ND) / count)
        self.count = count

    def codec(self, components: int) -> LinearCodec:
        """The `components` directions of most variance. Raises UserError when the data span
        fewer."""
        if self.count < 2:
            raise UserError("too few samples for a linear codec", expected=">= 2",
                            found=str(self.count))
        variance, vectors = np.linalg.eigh(self.scatter_DD / self.count)
        return _codec(self.mean_D, variance[::-1], vectors.T[::-1], components,
                      np.trace(self.scatter_DD) / self.count)


def fit(x_ND: np.ndarray, components: int) -> LinearCodec:
    """PCA of N samples of D entries, through whichever of (D, D) and (N, N) is the smaller."""
    count, size = x_ND.shape
    if count >= size:
        moments = Moments(size)
        moments.add(x_ND)
        return moments.codec(components)
    mean_D = x_ND.mean(0, dtype=np.float64)
    # float32 keeps a few thousand images in memory; their Gram matrix then loses nothing that a
    # pixel could show.
    centred_ND = (x_ND - mean_D.astype(np.float32)).astype(np.float32)
    gram_NN = (centred_ND @ centred_ND.T).astype(np.float64)
    variance, weights = np.linalg.eigh(gram_NN / count)
    variance = variance[::-1][:components]
    weights_KN = weights.T[::-1][:components]
    vectors_KD = (weights_KN.astype(np.float32) @ centred_ND).astype(np.float64)
    # removes what rounding left of non-orthogonality; keeps the order
    q_DK, r_KK = np.linalg.qr(vectors_KD.T)
    vectors_KD = (q_DK * np.sign(np.where(np.diag(r_KK) == 0, 1.0, np.diag(r_KK)))).T
    return _codec(mean_D, variance, vectors_KD, components, np.trace(gram_NN) / count)


def _codec(mean_D, variance_K, vectors_KD, components, total) -> LinearCodec:
    rank = int((variance_K > 1e-9 * max(variance_K[0], 1e-30)).sum())
    if rank < components:
        raise UserError("data span fewer directions than the linear codec has components",
                        expected=f">= {components}", found=str(rank),
                        hint="use fewer components or more data")
    variance_K, vectors_KD = variance_K[:components], vectors_KD[:components]
    # A component's sign is arbitrary; make it a function of the data: its largest entry is
    # positive.
    sign = np.sign(vectors_KD[np.arange(components), np.abs(vectors_KD).argmax(1)])
    return LinearCodec(mean_D.astype(np.float32), (vectors_KD * sign[:, None]).astype(np.float32),
                       np.sqrt(variance_K).astype(np.float32), float(variance_K.sum() / total))
