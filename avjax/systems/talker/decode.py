"""The two inner parts of a generated slot: one position through the language model, and one patch
of each stream out of the diffusion heads.

At batch 1 both are bound by reading weights. So all that does not change is computed once, before
the loop over slots: weights are cast, the local blocks' hidden width is padded with zeros to what
vector units like, the stacked layers are unstacked (slicing a layer off inside a loop would copy it
each time), and the times' embeddings are computed for all steps; and for each patch, outside its
Euler steps, the tokens that stay.

Suffixes: B rows, G rows of both branches of the guidance, S Euler steps, P frames, C stream width,
D model width.
"""

import jax
import jax.numpy as jnp

from avjax.flow.guidance import guide, guide_zero_star, zero_init_steps
from avjax.flow.path import between
from avjax.flow.solvers import euler_between, swayed_times
from avjax.nn.layers import matmul
from avjax.systems.talker.backbone import DecoderLayer
from avjax.systems.talker.local import ALIGN, joint_stacks
from avjax.systems.talker.model import TalkerNet

HEADS = {"audio": "speech_head", "motion": "motion_head"}


def apply(system, ready, method, *args):
    """A method of the network (its name or a function of it) on prepared parameters."""
    net = TalkerNet(system.config, system.net.dtype, unstacked=True)
    return net.apply({"params": ready["params"]}, *args, method=method)


def _cast(system, path, leaf):
    """A parameter in the compute dtype; the local blocks' hidden width padded with zeros, which
    change nothing."""
    names = [key.key for key in path]
    if names[-1] != "kernel":
        return leaf
    if "stack" in names and "mlp" in names:
        axis = -1 if "inputs" in names else 0
        room = [(0, 0)] * leaf.ndim
        room[axis] = (0, -leaf.shape[axis] % ALIGN)
        leaf = jnp.pad(leaf, room)
    return leaf.astype(system.net.dtype)


def unstack_blocks(stack):
    """Parameters of a local stack with its scanned blocks one by one."""
    blocks = {f"blocks_{i}": block for i, block in enumerate(unstack(stack.get("blocks", {})))}
    return {name: part for name, part in stack.items() if name != "blocks"} | blocks


def unstack(stacked):
    """Arrays with a leading layer axis as a list of trees, one a layer."""
    leaves = jax.tree.leaves(stacked)
    return [jax.tree.map(lambda a, i=i: a[i], stacked)
            for i in range(len(leaves[0]) if leaves else 0)]


def prepare(system, params, names):
    """The parameters as the loop over slots uses them: {"params", "layers", "times", "embedded",
    "noisy"}; `names`: heads."""
    stacked = "audio_encoder", "motion_encoder", *HEADS.values()
    params = params | {name: params[name] | {"stack": unstack_blocks(params[name]["stack"])}
                       for name in stacked}
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: _cast(system, path, leaf),
                                              params)
    layers = params["backbone"]["layers"]
    c = system.config
    # the first steps of CFG-Zero* have no velocity: the noise is the same at a later time
    times = swayed_times(c.steps, c.sway)[zero_init_steps(c.steps) if c.cfg_zero_star else 0:]

    def embedded(net, name):
        """Each step's share of the first token: inputs(mu + time) = inputs(mu) + this."""
        head = getattr(net, HEADS[name])
        time_SD = head.time(times[:-1]) + head.span(jnp.zeros((1,)))
        return matmul(time_SD, head.inputs.kernel)

    def noisy(net, name):
        """A noisy frame to its token, two layers in one."""
        head = getattr(net, HEADS[name])
        return {"kernel": matmul(head.noisy.kernel, head.inputs.kernel),
                "bias": head.inputs(head.noisy.bias.astype(head.dtype)[None])[0]}

    def of_each(method):
        return {name: apply(system, {"params": params}, method, name) for name in names}

    return {"params": params, "layers": unstack(layers),
            "times": times, "embedded": of_each(embedded), "noisy": of_each(noisy)}


def prefill(system, ready, tokens_BN, position_BN, segment_BN, cache_size: int,
            with_task: bool = True):
    """Hidden states (B, N, D) of whole prompts and a cache a layer; `with_task`: the first token
    is a task's."""
    def run(net):
        x_BND = (net.task_and_text(tokens_BN, position_BN) if with_task
                 else net.embed_text(tokens_BN))
        return net.prefill(x_BND, position_BN, segment_BN, cache_size)

    hidden, cache = apply(system, ready, run)
    return hidden, unstack(cache)


def step(system, ready, x_BD, cache, index_B):
    """One more position a row -> hidden (B, D), cache; as `TalkerNet.step` on unstacked
    layers."""
    layer = DecoderLayer(system.config, system.net.dtype)
    shared = apply(system, ready, lambda net: net.backbone.step_shared(index_B))
    x_B1D = x_BD[:, None].astype(system.net.dtype)
    new = []
    for params, old in zip(ready["layers"], cache, strict=True):
        x_B1D, kept = layer.apply({"params": params}, x_B1D, old, shared, method="step")
        new.append(kept)
    return apply(system, ready, lambda net: net.backbone.norm(x_B1D[:, 0])), new


def sample(system, ready, names, noise, mu_BD, context, globals_, present, known):
    """One patch of each stream in `names` at once: Euler steps from `noise` with classifier-free
    guidance.

    Args:
      noise, context: {name: (B, P, C)}; globals_: {name: (B, S)}; mu_BD: the hidden state before
        the slot.
      present: {name: (B,) bool}, streams that the slot has; known: {name: ((B,) bool, (B, P, C))},
        which of them are given, and as what. Both only matter to coupled heads: they see a given
        patch noisy, at the same time on its path, as in training.
    Returns {name: (B, P, C)} float32.
    """
    if not names:
        return {}
    c = system.config
    guided = c.guidance != 1.0
    coupled = c.coupling == "joint" and len(names) == 2
    branches = 2 if guided else 1  # the second has no hidden state

    def constant(net, name):
        """The tokens that stay, of both branches: (G, 1, D) before the time joins, (G, 1 + P,
        D)."""
        head = getattr(net, HEADS[name])
        first_GD = head.inputs(jnp.concatenate([mu_BD, jnp.zeros_like(mu_BD)][:branches]))
        rest = head.globals(globals_[name])[:, None], head.context(context[name])
        return first_GD[:, None], jnp.tile(head.inputs(jnp.concatenate(rest, axis=1)),
                                           (branches, 1, 1))

    fixed = {name: apply(system, ready, constant, name) for name in names}

    def tokens(name, x_BPC, time_D):
        first, rest = fixed[name]
        noisy = matmul(x_BPC.astype(first.dtype),
                       ready["noisy"][name]["kernel"]) + ready["noisy"][name]["bias"]
        return jnp.concatenate([first + time_D, rest, jnp.tile(noisy, (branches, 1, 1))], axis=1)

    def stacks(net, sequences):
        if coupled:
            has = (jnp.tile(present[name], branches) for name in names)
            out = joint_stacks(*(getattr(net, HEADS[name]).stack for name in names), *sequences,
                               *has)
        else:
            out = [getattr(net, HEADS[name]).stack(x) for name,
                   x in zip(names, sequences, strict=True)]
        return {name: getattr(net, HEADS[name]).outputs(x).astype(jnp.float32) for name,
                x in zip(names, out, strict=True)}

    def velocity(x, t, time):
        if coupled:
            x = {name: jnp.where(known[name][0][:, None, None],
                                 between(known[name][1], noise[name], t), x[name])
                 for name in names}
        out = apply(system, ready, stacks, [tokens(name, x[name], time[name]) for name in names])
        if not guided:
            return out
        together = guide_zero_star if c.cfg_zero_star else guide
        return {name: together(*jnp.split(v, 2), c.guidance) for name, v in out.items()}

    return euler_between(velocity, {name: noise[name] for name in names}, ready["times"],
                         {name: ready["embedded"][name] for name in names})
