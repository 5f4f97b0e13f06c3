"""The small bidirectional transformers: patch encoders (a patch to a token) and diffusion heads (a
token to a patch).

They see 5 and 10 tokens at a time, thousands of times a step. Their last block computes queries and
MLP only where its output is read; the blocks before it are scanned, so their parameters carry a
leading layer axis.

Suffixes: M patches (any leading axes: they are not flattened, so that a mesh may split them), T
tokens of a short sequence, D width, H heads, K head width, R wanted positions, P frames a patch, C
stream width, S width of the global condition.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from avjax.nn.attention import attend
from avjax.nn.embeddings import rotary_tables, rotate, sinusoids
from avjax.nn.layers import PRODUCT, Dense, RMSNorm, SwiGLU, axes_kept, matmul, matrix_units
from avjax.sharding.activations import shard

# of config.remat. By name: a policy does not see inside `matmul`, whose gradient is written out
POLICIES = {"dots": jax.checkpoint_policies.save_only_these_names(PRODUCT), "full": None}
UNIT, TILE = 128, 16  # see `group_of`
ALIGN = 32  # of hidden units, for a sampler; int(8 D / 3) is odd or twice an odd number


class LocalBlock(nn.Module):
    """Pre-norm attention over all tokens of a short sequence, then SwiGLU of hidden width int(8 D /
    3)."""

    width: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    # (start, stop) of the positions that the output is wanted for
    rows: tuple[int, int | None] = (0, None)
    align: int = 1  # the hidden width is rounded up to a multiple of it

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.attention_norm = RMSNorm(self.width)
        self.qkv = Dense((3, self.heads, self.width // self.heads), self.width, use_bias=False,
                         **kw)
        self.project = Dense(self.width, self.width, use_bias=False, **kw)
        self.mlp_norm = RMSNorm(self.width)
        self.mlp = SwiGLU(self.width, -(-int(8 * self.width / 3) // self.align) * self.align,
                          by_width=True, **kw)

    def project_qkv(self, x_MTD, group: int = 1):
        """Rotated queries of the wanted positions, and rotated keys and values of all, each (M, .,
        H, K). `group`: so many sequences lie one behind the other in T."""
        T = x_MTD.shape[-2]
        K = self.width // self.heads
        normed_MTD = self.attention_norm(x_MTD)
        tables_TK = rotary_tables(jnp.arange(T) % (T // group), K)
        if matrix_units(self.dtype):
            q = self.qkv(self.wanted(normed_MTD, group), columns=0, keep=False)
            k = self.qkv(normed_MTD, columns=1, keep=False)
            v = self.qkv(normed_MTD, columns=2)
        elif self.rows == (0, None):
            qkv = self.qkv(normed_MTD)
            q, k, v = (qkv[..., i, :, :] for i in range(3))
        else:
            q = self.qkv(self.wanted(normed_MTD, group), columns=0)
            kv = self.qkv(normed_MTD, columns=slice(1, 3))
            k, v = kv[..., 0, :, :], kv[..., 1, :, :]
        pairs = rotary_pairs(self.dtype)
        q = rotate(q, *(self.wanted(a, group)[:, None] for a in tables_TK), pairs)
        k = rotate(k, *(a[:, None] for a in tables_TK), pairs)
        if matrix_units(self.dtype):
            q, k = checkpoint_name(q, PRODUCT), checkpoint_name(k, PRODUCT)
        return q, k, v

    def wanted(self, x_TD, group: int):
        """The positions (..., R, D) that the output is wanted for, of every sequence."""
        if self.rows == (0, None):
            return x_TD
        *lead, T, D = x_TD.shape
        x_TD = x_TD.reshape(*lead, group, T // group, D)[..., slice(*self.rows), :]
        return x_TD.reshape(*lead, -1, D)

    def finish(self, x_MTD, out_MRHK, group: int = 1):
        """The rest of the block, for the wanted positions."""
        x_MRD = self.wanted(x_MTD, group)
        places = ("batch", "time")[:x_MTD.ndim - 2]
        mixed_MRD = self.project(out_MRHK, heads=self.heads, keep=False)
        x_MRD = checkpoint_name(shard(x_MRD + mixed_MRD, *places), PRODUCT)
        return shard(x_MRD + self.mlp(self.mlp_norm(x_MRD)), *places)

    def __call__(self, x_MTD, group: int = 1):
        q, k, v = self.project_qkv(x_MTD, group)
        seen_RT = None
        if group > 1:  # each sequence sees itself
            of_q, of_k = (np.arange(group).repeat(a.shape[-3] // group) for a in (q, k))
            seen_RT = jnp.asarray(of_q[:, None] == of_k)
        return self.finish(x_MTD, attend(q, k, v, seen_RT, heads_inside=True), group)


def rotary_pairs(dtype) -> str:
    """How `rotate` is quickest in this arithmetic."""
    return "product" if matrix_units(dtype) else "halves"


def group_of(lead: tuple[int, ...], tokens: int, dtype) -> int:
    """How many sequences of `tokens` of a batch (B, patches...) are best taken as one.

    Matrix units take up to UNIT tokens at once, and arrays of 16 bits lie in tiles of TILE of them.
    Sequences of 10 fill neither, which costs several times their arithmetic: an accelerator takes
    the most that fit, each of which then sees its own part; a CPU takes them one at a time.
    """
    if not matrix_units(dtype) or len(lead) < 2 or axes_kept():
        return 1
    count = math.prod(lead[1:])
    fits = [n for n in range(2, UNIT // tokens + 1) if not count % n and not n * tokens % TILE]
    return max(fits, default=1)


class LocalStack(nn.Module):
    """Blocks and a final norm, for the positions `rows` = (start, stop)."""

    width: int
    heads: int
    layers: int
    rows: tuple[int, int | None]
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    remat: str = "none"
    # for a sampler (see `decode`): blocks_0, blocks_1, ..., hidden widths a multiple of ALIGN
    unstacked: bool = False

    def setup(self):
        def block(rows=(0, None)):
            return LocalBlock(self.width, self.heads, self.dtype, self.init_scale, rows,
                              ALIGN if self.unstacked else 1)

        if self.unstacked:
            self.blocks = [block() for _ in range(self.layers - 1)]
        elif self.layers > 1:
            self.blocks = block()
        self.last = block(self.rows)
        self.norm = RMSNorm(self.width)

    def __call__(self, x_MTD):
        lead, (T, D) = x_MTD.shape[:-2], x_MTD.shape[-2:]
        group = group_of(lead, T, self.dtype)
        if group > 1:
            x_MTD = x_MTD.reshape(lead[0], -1, group * T, D)
        x_MRD = self.norm(scan_blocks(lambda x, block: block(x, group), x_MTD, self))
        return x_MRD.reshape(*lead, -1, D)


def scan_blocks(step: Callable, x, stack: LocalStack, *others: LocalStack):
    """Applies step(x, block) with every block of a stack in turn, or step(x, block, *other blocks)
    with those of several equal stacks; all but the last as one scan."""
    if stack.unstacked:
        for blocks in zip(*(s.blocks for s in (stack, *others)), strict=True):
            x = step(x, *blocks)
    elif stack.layers > 1:
        body = remat(lambda block, x, *rest: (step(x, block, *rest), None), stack.remat,
                     scanned=True)
        count = stack.layers - 1
        # Written out on a CPU: a loop costs zeros, updates and slices of all that it keeps for the
        # backward pass. Elsewhere deep stacks would take too long to compile; and recomputation
        # outside a loop would be merged with the original.
        apart = not matrix_units(stack.dtype) and stack.remat == "none"
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True},
                       length=count, unroll=count if apart else 1, in_axes=nn.broadcast)
        x, _ = scan(stack.blocks, x, *(other.blocks for other in others))
    last = remat(lambda block, x, *rest: step(x, block, *rest), stack.remat, scanned=False)
    return last(stack.last, x, *(other.last for other in others))


def remat(function: Callable, how: str, scanned: bool) -> Callable:
    """A function of a module whose intermediate values are recomputed as `how` says. Outside a scan
    XLA would merge what is recomputed with the original, but for prevent_cse."""
    return function if how == "none" else nn.remat(function, policy=POLICIES[how],
                                                   prevent_cse=not scanned)


def joint_stacks(a: LocalStack, b: LocalStack, a_MTD, b_MTD, has_a_M, has_b_M):
    """Two stacks in step, each as it would run alone, except that every block attends to the tokens
    of both. `has_a_M`, `has_b_M`: which sequences exist; the others are hidden from both."""
    seen_MS = jnp.concatenate([jnp.broadcast_to(has[..., None], x.shape[:-1])
                               for has, x in ((has_a_M, a_MTD), (has_b_M, b_MTD))], axis=-1)
    seen_MHTS = seen_MS[..., None, None, :]

    def step(x, block_a, block_b):
        a_MTD, b_MTD = x
        qa, ka, va = block_a.project_qkv(a_MTD)
        qb, kb, vb = block_b.project_qkv(b_MTD)
        k, v = jnp.concatenate([ka, kb], axis=-3), jnp.concatenate([va, vb], axis=-3)
        out_a, out_b = (attend(q, k, v, seen_MHTS, heads_inside=True) for q in (qa, qb))
        return block_a.finish(a_MTD, out_a), block_b.finish(b_MTD, out_b)

    a_MTD, b_MTD = scan_blocks(step, (a_MTD, b_MTD), a, b)
    return a.norm(a_MTD), b.norm(b_MTD)


def two_layers(first: Dense, second: Dense, x):
    """second(first(x)). For more tokens than `first` has inputs the two kernels are multiplied
    beforehand: first's inputs are a few stream channels, so this saves nearly all of second's
    work."""
    if x.size // x.shape[-1] <= first.in_features:
        return second(first(x))
    kernel = matmul(first.kernel, second.kernel).astype(second.dtype)
    bias = (first.bias @ second.kernel + second.bias).astype(second.dtype)
    return matmul(x.astype(second.dtype), kernel) + bias


class PatchEncoder(nn.Module):
    """Frames of a patch in the model's width -> one token."""

    width: int
    heads: int
    layers: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    remat: str = "none"
    unstacked: bool = False

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.inputs = Dense(self.width, self.width, **kw)
        self.cls = self.param("cls", nn.initializers.normal(0.02), (self.width,))
        self.stack = LocalStack(self.width, self.heads, self.layers, (0, 1), remat=self.remat,
                                unstacked=self.unstacked, **kw)

    def __call__(self, x):
        """(..., P, D) -> (..., D)."""
        frames_MPD = self.inputs(x)
        cls = jnp.broadcast_to(self.cls.astype(frames_MPD.dtype), (*x.shape[:-2], 1, self.width))
        return self.stack(jnp.concatenate([cls, frames_MPD], axis=-2))[..., 0, :]


class TimeMLP(nn.Module):
    """t -> `sinusoids` of 1000 t at D/2 frequencies -> Linear, SiLU, Linear."""

    width: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0

    def setup(self):
        self.hidden = Dense(self.width, self.width, self.dtype, self.init_scale)
        self.out = Dense(self.width, self.width, self.dtype, self.init_scale)

    def __call__(self, t_M):
        places = ("batch", "time")[:t_M.ndim]
        hidden = shard(self.hidden(sinusoids(t_M, self.width // 2, 1000.0)), *places)
        return shard(self.out(jax.nn.silu(hidden)), *places)


class VelocityHead(nn.Module):
    """Velocity of a noisy patch at time t, given the hidden state, the previous patch and a global
    condition.

    Its sequence: [hidden state + time, global, previous patch, noisy patch].
    """

    stream_dim: int
    global_dim: int
    width: int
    heads: int
    layers: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0 / 3.0
    remat: str = "none"
    unstacked: bool = False

    def setup(self):
        kw = dict(dtype=self.dtype, init_scale=self.init_scale)
        self.noisy = Dense(self.width, self.stream_dim, **kw)
        self.context = Dense(self.width, self.stream_dim, **kw)
        self.globals = Dense(self.width, self.global_dim, **kw)
        self.time = TimeMLP(self.width, **kw)
        # of the step's length; always given 0, as the release trains it
        self.span = TimeMLP(self.width, **kw)
        self.inputs = Dense(self.width, self.width, **kw)
        self.stack = LocalStack(self.width, self.heads, self.layers, (-self.patch, None),
                                remat=self.remat,
                                unstacked=self.unstacked, **kw)
        self.outputs = Dense(self.stream_dim, self.width, **kw)

    def embed(self, x, t, mu, context, global_):
        """The sequences (..., 2 + 2 P, D)."""
        first_MD = self.inputs(mu.astype(self.dtype) + self.time(t) + self.span(jnp.zeros(())))
        global_MD = two_layers(self.globals, self.inputs, global_)
        context_MPD = two_layers(self.context, self.inputs, context)
        noisy_MPD = two_layers(self.noisy, self.inputs, x)
        return jnp.concatenate([first_MD[..., None, :], global_MD[..., None, :], context_MPD,
                                noisy_MPD], axis=-2)

    def readout(self, out_MPD):
        return self.outputs(out_MPD).astype(jnp.float32)

    def __call__(self, x, t, mu, context, global_):
        """x, context (..., P, C); t (...); mu (..., D); global (..., S) -> velocity like x,
        float32."""
        return self.readout(self.stack(self.embed(x, t, mu, context, global_)))


def joint_velocities(a: VelocityHead, b: VelocityHead, inputs_a, inputs_b, has_a, has_b):
    """Both heads of the same patches, coupled (`joint_stacks`). inputs: a head's arguments; has:
    (...) bool."""
    out_a, out_b = joint_stacks(a.stack, b.stack, a.embed(*inputs_a), b.embed(*inputs_b), has_a,
                                has_b)
    return a.readout(out_a), b.readout(out_b)
