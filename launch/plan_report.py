"""What launch.plan prints: a plan as lines of text and as JSON."""

import dataclasses
from collections.abc import Sequence

from avjax.planning.kernels import ATTENTION
from avjax.planning.plan import mesh_text

GIB = 2**30
NAMES = {"parameters": "parameters", "optimizer": "optimiser state", "average": "moving average",
         "gradients": "gradients", "batch": "batch", "activations": "activations"}


def report(config, plan, seconds: float) -> list[str]:
    """The whole plan, for people."""
    chip = plan.topology.chip
    device = "GPU" if not chip.is_tpu else "chip" if chip.cores == 1 else "core"
    lines = [f"{config.name} on {plan.topology.described}: {chip.kind}, {chip.hbm / GIB:.2f} GiB "
             f"and {chip.flops / 1e12:.0f} TFLOP/s a {device}",
             f"mesh {mesh_text(plan.mesh)}, batch {plan.batch}, planned in {seconds:.1f} s", ""]
    lines += [*parameters(plan), "", *memory(plan), ""]
    if plan.compiled:
        lines += [*collectives(plan), "", *kernels(plan), ""]
    return [*lines, *speed(plan), "", verdict(plan)]


def parameters(plan) -> list[str]:
    rows = [(name + (f"  x{count}" if count > 1 else ""), "x".join(map(str, shape)) or "scalar",
             axes_text(axes), size / 1e6, own / 1e6)
            for name, count, shape, axes, size, own in plan.table]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'parameters':{width}s}  {'shape':>20s}  {'axes':24s} {'MB':>10s} {'a device':>10s}"]
    lines += [f"{name:{width}s}  {shape:>20s}  {axes:24s} {size:10.2f} {own:10.2f}"
              for name, shape, axes, size, own in rows]
    total = sum(row[3] for row in rows)
    own = sum(row[4] for row in rows)
    return [*lines, f"{'all':{width}s}  {'':>20s}  {'':24s} {total:10.2f} {own:10.2f}"]


def axes_text(axes: Sequence) -> str:
    return ", ".join("-" if a is None else a if isinstance(a, str) else "*".join(a)
                     for a in axes) or "replicated"


def memory(plan) -> list[str]:
    lines = ["GiB a device, from shapes"]
    lines += [f"  {NAMES[part]:18s} {size / GIB:8.2f}" for part, size in plan.memory.items()
              if size]
    lines.append(f"  {'all':18s} {sum(plan.memory.values()) / GIB:8.2f}")
    if plan.compiled:
        c = plan.compiled
        lines += [f"GiB a device, {plan.compiler} (compiled in {c.seconds:.1f} s)",
                  f"  {'state and batch':18s} {c.arguments / GIB:8.2f}",
                  f"  {'temporaries':18s} {c.temporaries / GIB:8.2f}",
                  f"  {'program':18s} {c.code / GIB:8.2f}",
                  f"  {'peak':18s} {c.peak / GIB:8.2f}  of {plan.topology.chip.hbm / GIB:.2f}"]
    return lines


def collectives(plan) -> list[str]:
    rows = grouped(plan)
    if not rows:
        return ["no communication between devices"]
    lines = [f"{'communication a step':20s} {'over':14s} {'link':7s} {'times':>6s} {'MB':>10s} "
             f"{'ms':>8s}"]
    for r in rows:
        beside = f"  {100 * r['overlapped']:.0f} % beside arithmetic" if r["overlapped"] else ""
        lines.append(f"{r['kind']:20s} {r['axes']:14s} {r['link']:7s} {r['times']:6d} "
                     f"{r['bytes'] / 1e6:10.2f} {1e3 * r['seconds']:8.2f}{beside}")
    return lines


def grouped(plan) -> list[dict]:
    """Collectives summed by kind, axes and link, the longest first."""
    within, between = plan.topology.chip.links
    rows: dict[tuple, dict] = {}
    for c in plan.compiled.collectives if plan.compiled else ():
        key = c.kind, "*".join(c.axes) or ("slices" if c.dcn else "?"), between if c.dcn else within
        fresh = dict(zip(("kind", "axes", "link"), key,
                         strict=True)) | dict(times=0, bytes=0, seconds=0.0, overlapped=0.0)
        row = rows.setdefault(key, fresh)
        spent = c.seconds(plan.topology)
        row["times"] += c.times
        row["bytes"] += c.times * c.bytes
        row["seconds"] += spent
        row["overlapped"] += c.hidden(plan.topology)
    for row in rows.values():
        row["overlapped"] = row["overlapped"] / row["seconds"] if row["seconds"] else 0.0
    return sorted(rows.values(), key=lambda r: -r["seconds"])


def kernels(plan) -> list[str]:
    """What a step launches."""
    found = plan.compiled.kernels
    told = ", ".join(f"{times} {kind}" for kind, times in found.items())
    fused = "" if ATTENTION in found else "; no fused attention"
    return [f"{sum(found.values())} kernels a step: {told}{fused}"]


def speed(plan) -> list[str]:
    r = plan.roofline
    within, between = plan.topology.chip.links
    lines = [f"{plan.flops / 1e12:.2f} TFLOP a step; ms at full rate: arithmetic "
             f"{1e3 * r.compute:.2f}, memory {1e3 * r.hbm:.2f}, {within} {1e3 * r.ici:.2f}, "
             f"{between} {1e3 * r.dcn:.2f}",
             f"no step is faster than {1e3 * r.floor:.2f} ms ({r.bound}): MFU at most "
             f"{100 * r.mfu(r.floor):.0f} %"]
    if r.cycles:
        lines.append("XLA:TPU's estimate, with what communication it does not hide: "
                     f"{1e3 * r.compiler:.2f} ms, MFU {100 * r.mfu(r.compiler):.0f} %, "
                     f"{plan.batch / r.compiler:.0f} rows a second")
    else:
        lines.append(f"without any overlap of communication: {1e3 * r.serial:.2f} ms, MFU "
                     f"{100 * r.mfu(r.serial):.0f} %")
    return lines


def verdict(plan) -> str:
    hbm = plan.topology.chip.hbm
    if plan.fits:
        by = " (by the estimate, --search tries)" if plan.compiled else ""
        return (f"It fits: {plan.needed / GIB:.2f} of {hbm / GIB:.2f} GiB a device. Largest batch "
                f"on this mesh: about {plan.largest_batch}{by}.")
    return f"It does not fit: {plan.needed / GIB:.2f} GiB of {hbm / GIB:.2f}."


def candidates(found, plan) -> list[str]:
    lines = [f"{'mesh':36s} {'largest batch':>14s} {'ms by shapes':>13s} {'rows a second':>14s}"]
    lines += [f"{mesh_text(c.sizes):36s} {c.batch:14d} {1e3 * c.seconds:13.2f} {c.rate:14.0f}"
              for c in found]
    return [*lines, f"best: {mesh_text(plan.mesh)}, batch {plan.batch}"]


def scaling(config, plans) -> list[str]:
    """Weak scaling as a table; growth is of the step against the first row's."""
    compiled = all(p.compiled for p in plans)
    by = (f"{plans[0].compiler}'s collectives" if compiled
          else "communication implied by the sharding rules")
    more = f" {'expected':>9s} {'growth':>7s} {'MFU':>5s}" if plans[0].roofline.cycles else ""
    within, between = plans[0].topology.chip.links
    lines = [f"{config.name}: weak scaling from {by}",
             f"{'slice':36s} {'mesh':20s} {'batch':>7s} {'GiB':>6s} {'compute':>8s} {'HBM':>7s} "
             f"{within:>7s} {between:>7s} {'serial':>8s} {'growth':>7s}{more}"]
    first = plans[0].roofline
    for p in plans:
        r = p.roofline
        more = (f" {1e3 * r.compiler:9.2f} {100 * (r.compiler / first.compiler - 1):+6.1f}% "
                f"{100 * r.mfu(r.compiler):4.0f}%" if r.cycles else "")
        lines.append(f"{p.topology.described:36s} {mesh_text(p.mesh):20s} {p.batch:7d} "
                     f"{p.needed / GIB:6.2f} {1e3 * r.compute:8.2f} {1e3 * r.hbm:7.2f} "
                     f"{1e3 * r.ici:7.2f} {1e3 * r.dcn:7.2f} {1e3 * r.serial:8.2f} "
                     f"{100 * (r.serial / first.serial - 1):+6.1f}%{more}")
    expected = ("; expected: XLA:TPU's estimate and the communication that it does not hide" if more
                else "")
    return [*lines, "ms a step. serial: arithmetic or memory at full rate, then all communication"
            f"{expected}."]


def as_dict(config, plan) -> dict:
    """The plan as JSON holds it; bytes and seconds."""
    r, t = plan.roofline, plan.topology
    out = {"config": config.name, "topology": t.name, "slices": t.slices, "devices": t.devices,
           "chip": dataclasses.asdict(t.chip), "mesh": plan.mesh, "batch": plan.batch,
           "fits": plan.fits, "needed": plan.needed, "largest_batch": plan.largest_batch,
           "memory": plan.memory, "flops": plan.flops,
           "roofline": {f.name: getattr(r, f.name) for f in dataclasses.fields(r)} | {
               "useful": r.useful(), "floor": r.floor, "serial": r.serial, "compiler": r.compiler,
               "bound": r.bound, "mfu_at_most": r.mfu(r.floor),
               "mfu_expected": r.mfu(r.compiler)},
           "parameters": [dict(zip(("name", "count", "shape", "axes", "bytes", "device_bytes"), row,
                                   strict=True))
                          for row in plan.table]}
    if plan.compiled:
        c = plan.compiled
        out["compiled"] = {"arguments": c.arguments, "temporaries": c.temporaries, "code": c.code,
                           "peak": c.peak, "seconds": c.seconds, "compiler": plan.compiler,
                           "kernels": c.kernels, "collectives": grouped(plan)}
    return out
