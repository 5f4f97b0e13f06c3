"""k-means in a stream and on a mesh: 10 000 centroids over billions of frames.

1. One pass draws a reservoir of frames, each frame of the stream with the same chance.
2. k-means++ (Arthur & Vassilvitskii 2007) picks the first centroids from the reservoir; Lloyd's
iterations refine them on it.
3. Passes over the stream refine further: exact Lloyd, the sums of all frames and then one
update. A centroid that no frame chose is re-seeded with a frame drawn as k-means++ draws, in
proportion to its squared distance.

Frames are split over the mesh's data axes, centroids are replicated, and a table of
distances is held for TABLE entries at a time. The result is a pure function of the frames in their
order, the seed and the mesh; how the stream is cut into blocks does not matter.

Suffixes: N frames, R frames of a chunk, D entries, K centroids, P candidates for re-seeding.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from avjax.errors import UserError
from avjax.sharding.mesh import BATCH_AXES, batch_sharding, make_mesh, replicated

RESERVOIR = 50_000  # frames, at least: enough for hundreds of centroids
FRAMES_A_UNIT = 32  # reservoir frames a centroid, where there are more
BLOCK = 65_536  # frames of the stream that go to the mesh at a time
TABLE = 2**24  # distances held at a time, a device: 64 MB
_CANDIDATES = 256  # frames kept for re-seeding
_FLUSH = 16  # blocks summed on the mesh in float32 before the host adds them up in float64


def fit(blocks: Callable[[], Iterable[np.ndarray]], units: int, *, seed: int = 0,
        iterations: int = 30, passes: int = 3, tolerance: float = 1e-3, mesh: Mesh | None = None,
        report: Callable[[str], None] = lambda line: None) -> np.ndarray:
    """Centroids (units, D) float32 of a stream of frames.

    Args:
      blocks: gives a fresh iterator over the same frames, (n, D) blocks of any sizes, whenever it
        is called.
      units: number of centroids.
      seed: of every draw.
      iterations: of Lloyd on the reservoir.
      passes: over the stream after that, at most; none where the reservoir holds all of it.
      tolerance: no further pass once the mean squared distance falls by less than this share.
      mesh: frames are split over its axes data and fsdp; None = one device. One process.
      report: is given a line a pass.

    Raises:
      UserError: fewer distinct frames than units, blocks of different widths, or numbers that are
        not finite.
    """
    mesh = mesh or make_mesh({"data": 1}, jax.local_devices()[:1])
    sample_ND, complete = _reservoir(blocks(), max(RESERVOIR, FRAMES_A_UNIT * units), seed)
    _check_distinct(sample_ND, units)
    start_key, lloyd_key, key = jax.random.split(jax.random.key(seed), 3)
    data = _put(sample_ND, _equal_chunks(len(sample_ND), units, mesh), mesh)
    centroids_KD = _seeds(mesh, units)(*data, start_key)
    if iterations:
        centroids_KD = _lloyd(mesh, iterations)(*data, centroids_KD, lloyd_key)
    del data
    size = _equal_chunks(min(BLOCK, len(sample_ND)), units, mesh)
    last = math.inf
    for number in range(0 if complete else passes):
        centroids_KD, distance, empty = _pass(blocks(), size, centroids_KD,
                                              jax.random.fold_in(key, number), mesh)
        report(f"k-means: pass {number + 1} of at most {passes}, mean squared distance "
               f"{distance:.6g}, {empty} empty")
        if not empty and last - distance < tolerance * last:
            break
        last = distance
    return np.asarray(centroids_KD)


def half_distances(x_ND: jax.Array, centroids_KD: jax.Array) -> jax.Array:
    """(N, K): half the squared distances, less half of the frame's squared norm, which does not
    change the order. Products in full float32, because the nearest two centroids may be close to a
    tie."""
    products_NK = jnp.matmul(x_ND, centroids_KD.T, precision=lax.Precision.HIGHEST)
    return 0.5 * jnp.square(centroids_KD).sum(1) - products_NK


def _reservoir(blocks: Iterable[np.ndarray], size: int, seed: int) -> tuple[np.ndarray, bool]:
    """(min(size, N), D): the frames with the `size` smallest of N random numbers, in the stream's
    order; and whether these are all. Holds 2 size, or a block more."""
    rng = np.random.default_rng(seed)
    rows = []
    draws = []
    limit = np.inf

    def prune():
        x_ND, draw_N = np.concatenate(rows), np.concatenate(draws)
        if len(x_ND) <= size:
            return x_ND, draw_N
        kept = np.sort(np.argpartition(draw_N, size - 1)[:size])
        return x_ND[kept], draw_N[kept]

    for block in _checked(blocks):
        draw_N = rng.random(len(block))
        rows.append(block[draw_N < limit])
        draws.append(draw_N[draw_N < limit])
        if sum(map(len, rows)) > 2 * size:
            x_ND, draw_N = prune()
            rows = [x_ND]
            draws = [draw_N]
            limit = draw_N.max()
    if not rows:
        raise UserError("no frames to fit units on", where="k-means", expected="speech",
                        found="an empty stream",
                        hint="look at the split that units are fitted on")
    return prune()[0], not np.isfinite(limit) and sum(map(len, rows)) <= size


def _checked(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks that have frames, float32, all of one width and finite."""
    width = None
    for block in blocks:
        block = np.asarray(block, np.float32)
        width = width or block.shape[-1]
        if block.ndim != 2 or block.shape[1] != width or not np.isfinite(block).all():
            finite = np.isfinite(block).all()
            raise UserError("frames that units cannot be fitted on", where="k-means",
                            expected=f"(n, {width}) finite numbers", found=str(block.shape)
                            if finite else "NaN or infinity",
                            hint="leave the recording out, or extract its frames anew")
        if len(block):
            yield block


def _check_distinct(x_ND: np.ndarray, units: int) -> None:
    distinct = set()
    for row in x_ND:
        distinct.add(hash(row.tobytes()))
        if len(distinct) >= units:
            return
    raise UserError("too few frames for that many units", where="k-means",
                    expected=f"at least {units} distinct", found=f"{len(distinct)} of {len(x_ND)}",
                    hint="give more speech or fewer units")


def _shards(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _rows(units: int) -> int:
    """Frames whose distances to all centroids are one table."""
    return max(1, TABLE // units)


def _equal_chunks(frames: int, units: int, mesh: Mesh) -> int:
    """The least size >= frames that gives every device the same number of equal chunks, of at most
    _rows(units) frames."""
    local = -(-frames // _shards(mesh))
    chunks = -(-local // _rows(units))
    return -(-local // chunks) * chunks * _shards(mesh)


def _put(x_ND: np.ndarray, size: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Frames padded to `size` and which of them count, on the mesh."""
    padded_ND = np.zeros((size, x_ND.shape[1]), np.float32)
    padded_ND[:len(x_ND)] = x_ND
    return jax.device_put((padded_ND, np.arange(size) < len(x_ND)), batch_sharding(mesh))


def _on_mesh(body, mesh: Mesh, whole: int, donate: tuple[int, ...] = ()):
    """jit of a body that sees its device's share of (x_ND, valid_N), and `whole` further arguments
    as they are. It returns what is equal on all devices."""
    specs = (PartitionSpec(BATCH_AXES),) * 2 + (PartitionSpec(),) * whole
    return jax.jit(jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(),
                                 check_vma=False),
                   donate_argnums=donate)


def _gumbel(key: jax.Array, n: int) -> jax.Array:
    """(n,) draws, others on every device. The frame with the largest log(weight) + draw is one
    drawn by weight."""
    return jax.random.gumbel(jax.random.fold_in(key, lax.axis_index(BATCH_AXES)), (n,))


def _top(score_N: jax.Array, x_ND: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` frames of highest score of all devices, best first: (count,) scores, (count, D)
    frames."""
    score_P, index_P = lax.top_k(score_N, min(count, len(score_N)))
    score_P, x_PD = (lax.all_gather(a, BATCH_AXES, tiled=True) for a in (score_P, x_ND[index_P]))
    score_P, index_P = lax.top_k(score_P, min(count, len(score_P)))
    return score_P, x_PD[index_P]


@functools.cache
def _seeds(mesh: Mesh, units: int):
    """k-means++ seeding: (x_ND, valid_N, key) -> (K, D)."""

    def body(x_ND, valid_N, key):
        norm_N = jnp.square(x_ND).sum(1)

        def draw(k, weight_N):
            log_N = jnp.log(jnp.maximum(weight_N, 1e-30))
            score_N = log_N + _gumbel(jax.random.fold_in(key, k), len(x_ND))
            return _top(jnp.where(valid_N, score_N, -jnp.inf), x_ND, 1)[1][0]

        def distance_to(c_D):
            product_N = jnp.matmul(x_ND, c_D, precision=lax.Precision.HIGHEST)
            return jnp.maximum(norm_N - 2 * product_N + c_D @ c_D, 0.0)

        def seed_one(k, carry):
            centroids_KD, nearest_N = carry
            c_D = draw(k, nearest_N)
            return centroids_KD.at[k].set(c_D), jnp.minimum(nearest_N, distance_to(c_D))

        first_D = draw(0, jnp.ones(len(x_ND)))
        start = jnp.zeros((units, x_ND.shape[1])).at[0].set(first_D), distance_to(first_D)
        return lax.fori_loop(1, units, seed_one, start)[0]

    return _on_mesh(body, mesh, whole=1)


@functools.cache
def _lloyd(mesh: Mesh, iterations: int):
    """Lloyd's iterations on frames that stay: (x_ND, valid_N, centroids_KD, key) -> (K, D)."""

    def body(x_ND, valid_N, centroids_KD, key):
        def iterate(i, centroids_KD):
            sum_KD, count_K, _, _, x_PD = _statistics(x_ND, valid_N, centroids_KD,
                                                      jax.random.fold_in(key, i))
            return _update(centroids_KD, sum_KD, count_K, x_PD)

        return lax.fori_loop(0, iterations, iterate, centroids_KD)

    return _on_mesh(body, mesh, whole=2)


@functools.cache
def _block_sums(mesh: Mesh):
    """Adds a block's statistics: (x_ND, valid_N, centroids_KD, key, sum_KD, count_K, distance) ->
    the last three, and the block's scores and candidates."""

    def body(x_ND, valid_N, centroids_KD, key, sum_KD, count_K, distance):
        more_KD, more_K, more, score_P, x_PD = _statistics(x_ND, valid_N, centroids_KD, key)
        return sum_KD + more_KD, count_K + more_K, distance + more, score_P, x_PD

    return _on_mesh(body, mesh, whole=5, donate=(4, 5, 6))


def _statistics(x_ND, valid_N, centroids_KD, key):
    """Over all devices' frames: sum (K, D) and number (K,) of every centroid's frames, sum of
    squared distances, and candidates for re-seeding with their scores, (P,) and (P, D)."""
    units, width = centroids_KD.shape
    chunks = -(-len(x_ND) // _rows(units))

    def chunk(carry, frames):
        x_RD, valid_R = frames
        table_RK = half_distances(x_RD, centroids_KD)
        nearest_R = jnp.where(valid_R, table_RK.argmin(1), units)  # `units`: none
        distance_R = jnp.maximum(2 * table_RK.min(1) + jnp.square(x_RD).sum(1), 0.0)
        more = _sums(x_RD, nearest_R, units)
        return jax.tree.map(jnp.add, carry, more), distance_R

    start = jnp.zeros((units, width)), jnp.zeros(units, jnp.int32)
    frames = x_ND.reshape(chunks, -1, width), valid_N.reshape(chunks, -1)
    (sum_KD, count_K), distance_N = lax.scan(chunk, start, frames)
    distance_N = jnp.where(valid_N, distance_N.reshape(-1), 0.0)
    score_N = jnp.where(valid_N, jnp.log(jnp.maximum(distance_N, 1e-30)) + _gumbel(key, len(x_ND)),
                        -jnp.inf)
    score_P, x_PD = _top(score_N, x_ND, _CANDIDATES)
    return (*lax.psum((sum_KD, count_K, distance_N.sum()), BATCH_AXES), score_P, x_PD)


def _sums(x_RD, nearest_R, units: int):
    """(K, D) sums and (K,) numbers of the frames of every centroid. A CPU adds them one after the
    other; an accelerator would scatter in any order, so there it is a product with a table of zeros
    and ones."""
    count_K = jax.ops.segment_sum(jnp.ones(len(x_RD), jnp.int32), nearest_R, units)
    if jax.default_backend() == "cpu":
        return jax.ops.segment_sum(x_RD, nearest_R, units), count_K
    member_RK = jax.nn.one_hot(nearest_R, units, dtype=x_RD.dtype)
    return jnp.matmul(member_RK.T, x_RD, precision=lax.Precision.HIGHEST), count_K


def _update(centroids_KD, sum_KD, count_K, x_PD):
    """Means; the i-th centroid without frames becomes the i-th candidate, or stays where there are
    too few of those."""
    empty_K = count_K == 0
    which_K = jnp.cumsum(empty_K) - 1
    fresh_KD = jnp.where((which_K < len(x_PD))[:, None], x_PD[jnp.minimum(which_K, len(x_PD) - 1)],
                         centroids_KD)
    return jnp.where(empty_K[:, None], fresh_KD, sum_KD / jnp.maximum(count_K, 1)[:, None])


def _pass(blocks, size: int, centroids_KD, key, mesh: Mesh):
    """One pass over the stream: new centroids (K, D), mean squared distance before, number of empty
    centroids."""
    step = _block_sums(mesh)
    units, width = centroids_KD.shape
    zero = (np.zeros((units, width), np.float32), np.zeros(units, np.int32), np.float32(0))
    total = (np.zeros((units, width)), np.zeros(units, np.int64), np.zeros(()))
    carry = None
    best = None
    for number, block_ND in enumerate(_equal_blocks(_checked(blocks), size)):
        if number % _FLUSH == 0:
            total = _flush(total, carry)
            carry = jax.device_put(zero, replicated(mesh))
        *carry, score_P, x_PD = step(*_put(block_ND, size, mesh), centroids_KD,
                                     jax.random.fold_in(key, number), *carry)
        if best is not None:
            score_P, x_PD = _better(*best, score_P, x_PD)
        best = score_P, x_PD
    sum_KD, count_K, distance = _flush(total, carry)
    mean_KD = (sum_KD / np.maximum(count_K, 1)[:, None]).astype(np.float32)
    present_K = np.minimum(count_K, 1).astype(np.int32)
    updated_KD = jax.device_put(_update(np.asarray(centroids_KD), mean_KD, present_K,
                                        np.asarray(best[1])), replicated(mesh))
    return updated_KD, distance / count_K.sum(), int((count_K == 0).sum())


def _flush(total, carry):
    """The host's state (64 bits) and the mesh's (32)."""
    return total if carry is None else [t + np.asarray(c) for t,
                                        c in zip(total, carry, strict=True)]


@jax.jit
def _better(score_P, x_PD, other_P, other_PD):
    """The best P of two lists of candidates."""
    score_Q, index_P = lax.top_k(jnp.concatenate([score_P, other_P]), len(score_P))
    return score_Q, jnp.concatenate([x_PD, other_PD])[index_P]


def _equal_blocks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same frames in blocks of `size`, the last one shorter."""
    held = []
    count = 0
    for block in blocks:
        while count + len(block) >= size:
            yield np.concatenate([*held, block[:size - count]])
            block = block[size - count:]
            held = []
            count = 0
        held.append(block)
        count += len(block)
    if count:
        yield np.concatenate(held)
