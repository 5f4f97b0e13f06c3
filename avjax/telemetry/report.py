"""Texts and numbers about a run: its start-up report, its memory, its speed in one line."""

import json
import re
import resource
from collections.abc import Mapping

import jax

from avjax.hosts import distributed
from avjax.hosts.watchdog import rss_bytes
from avjax.sharding.rules import named_leaves


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def start_report(config, system, state, compiled, mesh, peak: float, peak_source: str) -> str:
    """Parameters, memory, batch, mesh, FLOPs: what a reader checks before leaving a run alone.

    Args:
      compiled: avjax.training.step.CompiledStep.
      peak: FLOP/s of the mesh, known from `peak_source`.
    """
    lines = _parameter_table(state["params"])
    memory = compiled.memory
    if memory is not None:
        arguments = memory.argument_size_in_bytes
        temporaries = memory.temp_size_in_bytes
        live = arguments + temporaries + memory.output_size_in_bytes - memory.alias_size_in_bytes
        held = sum(x.nbytes for x in jax.tree.leaves(state))
        lines.append(f"memory a device: {megabytes(live)} (state and batch {megabytes(arguments)}, "
                     f"temporaries {megabytes(temporaries)}); whole state {megabytes(held)}")
    lines.append(_batch_line(config, system))
    kinds = sorted({device.device_kind for device in mesh.devices.flat})
    lines.append(f"mesh: {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())} on "
                 f"{mesh.devices.size} device(s) ({', '.join(kinds)})")
    recomputed = ""
    if compiled.kept_anyway:
        lines.append(f"remat: {compiled.kept_anyway} parts that are not scanned layers keep their "
                     "memory here: XLA:CPU merges what is computed again with the original; on GPU "
                     "and TPU it is saved")
    elif compiled.flops != compiled.model_flops:
        recomputed = f" (with what remat computes again {compiled.flops:.3e})"
    lines.append(f"FLOPs a step: {compiled.model_flops:.3e}{recomputed}; peak {peak:.3e} a second "
                 f"({peak_source}); compiled in {compiled.compile_seconds:.1f} s")
    return "\n".join(lines)


def _parameter_table(params) -> list[str]:
    """Arrays and parameters by the first three parts of their path; layers that differ only in
    their number share a row."""
    rows: dict[str, list[int]] = {}
    for name, leaf in named_leaves(params):
        prefix = "/".join(name.split("/")[:-1][:3]) or name
        row = rows.setdefault(re.sub(r"\d+", "*", prefix), [0, 0])
        row[0] += 1
        row[1] += leaf.size
    width = max(map(len, rows))
    total = sum(size for _, size in rows.values())
    return ["parameters",
            *(f"  {name:<{width}} {count:>4} arrays {size:>14,}"
              for name, (count, size) in rows.items()),
            f"  {'total':<{width}} {'':>11} {total:>14,}"]


def _batch_line(config, system) -> str:
    packed = system.rows
    size = f"{config.data.batch_size} examples x {config.data.segment} frames"
    if packed:
        limits = " and ".join(f"{count} {name}" for name, count in packed.capacity.items())
        size = f"{config.data.batch_size} rows of up to {limits}"
    micro = config.optimizer.accumulate
    return f"batch: {size} a step" + (f", in {micro} micro-batches" if micro > 1 else "")


def memory() -> dict[str, float]:
    """{"rss_mb": of this process; "device_mb", "device_peak_mb": of its fullest device, where the
    backend tells}."""
    found = {"rss_mb": round(rss_bytes() / 1e6, 1)}
    stats = [s for device in jax.local_devices() if (s := device.memory_stats())]
    for name, key in (("device_mb", "bytes_in_use"), ("device_peak_mb", "peak_bytes_in_use")):
        if values := [s[key] for s in stats if key in s]:
            found[name] = round(max(values) / 1e6, 1)
    return found


def slowest_data(seconds: float) -> dict[str, float]:
    """{"slowest_data_wait_seconds", "slowest_host"} over all hosts, on host 0, whose own times
    cannot tell another host's late batch from the device's work. Nobody waits here, so the others'
    numbers may be one log step old."""
    peers = distributed.peers()
    if peers is None:
        return {}
    if peers.me:
        peers.client.key_value_set(f"{peers.prefix}/data_wait/{peers.me}", json.dumps(seconds),
                                   allow_overwrite=True)
        return {}
    waits = {int(host): value for host, value in peers.list("data_wait").items()} | {0: seconds}
    slowest = max(waits, key=waits.get)
    return {"slowest_data_wait_seconds": waits[slowest], "slowest_host": slowest}


def speed_line(speed: Mapping[str, float], positions: Mapping[str, int],
               mfu_per_step: float) -> str:
    """One line about a whole run.

    Args:
      speed: avjax.telemetry.speed.averages between its first and last step.
      positions: of a step.
      mfu_per_step: MFU at one step a second.
    """
    if not speed:
        return "no steps"
    times = [f"{name} {1e3 * speed[key]:.3g}" for name, key in (
        ("device", "device_seconds"), ("data wait", "data_wait_seconds"), ("host", "host_seconds"))
             if key in speed]
    rate = speed["steps_per_second"]
    rates = [f"{count * rate:,.4g} {name}/s" for name, count in positions.items()]
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    used = [f"host memory {peak_rss / 1e9:.2f} GB"]
    if (device := memory().get("device_peak_mb")) is not None:
        used.append(f"device memory {device / 1e3:.2f} GB")
    times.insert(0, f"{1e3 * speed['step_seconds']:.4g} ms")
    return (f"a step {', '.join(times)}; {', '.join(rates)}, MFU "
            f"{rate * mfu_per_step:.1%}; at most {', '.join(used)}")
