"""What to change so that a job fits."""

from typing import Any

from avjax.errors import UserError
from avjax.planning.plan import Plan, abstract_mesh_of
from avjax.planning.planner import Job
from avjax.sharding.mesh import check_batch


def advice(job: Job, plan: Plan) -> list[str]:
    """Changes that make a job fit, with the bytes that it would then need, about (from shapes)."""
    chip = plan.topology.chip
    config = job.config
    scale = plan.needed / max(sum(plan.memory.values()), 1)
    found = []

    def offer(text: str, other: Job, mesh, batch: int):
        try:
            check_batch(batch, mesh, accumulate=other.accumulate)
            needed = sum(other.memory(mesh, batch).values()) * scale
        except UserError:
            return
        if needed <= chip.hbm:
            found.append(f"{text} (about {needed / 2**30:.1f} GiB)")

    mesh = abstract_mesh_of(plan.mesh)
    if plan.largest_batch:
        found.append(f"--config.data.batch_size={plan.largest_batch}")
    total = plan.mesh["data"] * plan.mesh["fsdp"] // plan.topology.slices
    if plan.mesh["fsdp"] < total:
        wider = abstract_mesh_of(plan.mesh | {"data": plan.topology.slices, "fsdp": total})
        offer(f"--config.mesh.data=1 --config.mesh.fsdp={total}", job, wider, plan.batch)
    more_remat = {"none": "full", "dots": "full", False: True}.get(config.system.get("remat"))
    if more_remat is not None:
        offer(f"--config.system.remat={more_remat}", _changed(config, "system.remat", more_remat),
              mesh, plan.batch)
    for times in (2, 4, 8):
        count = job.accumulate * times
        before = len(found)
        offer(f"--config.optimizer.accumulate={count}",
              _changed(config, "optimizer.accumulate", count), mesh, plan.batch)
        if len(found) > before:
            break
    return found or ["a larger slice, or chips with more memory"]


def _changed(config, key: str, value: Any) -> Job:
    """The job of a config with another value at "section.name"."""
    section, name = key.split(".")
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy[section][name] = value
    return Job(copy)
