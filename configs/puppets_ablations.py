"""The paper's ablations of the exchange between the towers on the built-in puppets, at equal
numbers of parameters, steps and examples: highway, separate, shared or cascaded.

Run:        avjax submit --target=local --config=configs/puppets_ablations.py \\
                --sweep=config=highway,separate,shared,cascaded --sweep=config.seed=0,1,2 \\
                --workdir=runs/ablations
            one of them: avjax train --config=configs/puppets_ablations.py:shared \\
                --workdir=runs/ablations/shared
            sizes: python -m configs.puppets_ablations
Hardware:   two CPU cores, 4 GiB; three to four minutes a member at 300 steps, for twelve. Corpus,
            head VAE and features are made once, in the folder `common` beside the workdirs.
Expect:     docs/avflow.md. Measured on puppets: it shows what the exchange does to learning them,
            never realism.
Sizes:      ours. `equal_size` gives every variant the parameters of `highway`; the full-size
            ablations, where widths are equal as in the paper, are configs/avflow_ablations.py.
"""

from avjax.errors import UserError
from avjax.systems.avflow.config import FUSIONS, parameter_count
from configs import base, quickstart

VARIANTS = FUSIONS


def get_config(fusion: str = "highway"):
    if fusion not in VARIANTS:
        raise UserError("unknown variant", where="configs/puppets_ablations.py",
                        expected=" | ".join(VARIANTS), found=repr(fusion))
    c = quickstart.get_config()
    c.name = f"puppets_{fusion}"
    c.stages = base.in_common(c.stages)
    c.data.dir = base.in_common(c.data.dir)

    c.system.d_model = 144
    c.system.d_ff = 384
    c.system.fusion = "highway"
    c.system = equal_size(c.system, fusion)

    c.train.steps = 400
    c.train.checkpoint_every = 200
    c.train.evaluate_every = 0
    c.evaluate.splits = ("valid",)
    c.evaluate.max_examples = 16
    c.sample.text = ""
    return c


def equal_size(system, fusion: str):
    """`system` with another `fusion` and as many parameters, within one unit of the feed-forward
    layers.

    Of the widths that heads divide, each with the feed-forward width that makes up the number, the
    one is taken whose layers keep their proportions best: d_ff / d_model nearest to the given one.
    """
    wanted, proportion = parameter_count(system), system.d_ff / system.d_model
    step = 8 * system.num_heads  # a multiple of 8 and of 2 * num_heads
    found = []
    for width in range(step, 4 * system.d_model, step):
        c = system.copy_and_resolve_references()
        c.fusion, c.d_model, c.d_ff = fusion, width, 1
        least = parameter_count(c)
        c.d_ff = 2
        c.d_ff = 1 + round((wanted - least) / (parameter_count(c) - least))
        if c.d_ff >= 1:
            ratio = c.d_ff / width / proportion
            found.append((max(ratio, 1 / ratio), width, c))
    return min(found, key=lambda one: one[:2])[2]


if __name__ == "__main__":
    for name in VARIANTS:
        made = get_config(name).system
        print(f"{name:<10} d_model {made.d_model}, d_ff {made.d_ff}: "
              f"{parameter_count(made):,} parameters")
