"""What a run tells: metrics.jsonl (one JSON record a line), TensorBoard events, a progress bar, a
start-up report."""

import contextlib
import json
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from avjax.hosts import distributed
from avjax.hosts.watchdog import rss_bytes
from avjax.sharding.rules import named_leaves
from avjax.storage import failures, paths
from avjax.telemetry.events import Events
from avjax.telemetry.tracking import Wandb

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"


class Telemetry:
    """Records of one run. Records past `start` (a killed run's last moments, which will be
    repeated) are dropped, and those of `start` itself whose kinds are to be made `again`."""

    def __init__(self, workdir: str | Path, *, start: int, total: int, tracker: Wandb | None = None,
                 again: Sequence[str] = ()):
        self._tracker = tracker
        self.path = Path(workdir) / METRICS
        if self.path.exists():
            _drop_after(self.path, start, again)
        self._file = self.path.open("a", buffering=1)
        self._events = Events(Path(workdir) / EVENTS, purge_step=start + 1 if start else None,
                              flush_secs=30)
        # in a log file, a line now and then is enough
        self._quiet = quiet = not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc="train", unit="step", dynamic_ncols=True,
                         mininterval=10.0 if quiet else 0.2, maxinterval=30.0 if quiet else 1.0,
                         smoothing=0.1)

    def record(self, step: int, kind: str, values: Mapping[str, Any], *,
               scalars: bool = True) -> None:
        """One line of metrics.jsonl, and the numbers among `values` as scalars "kind/name" of
        TensorBoard and the tracker."""
        with failures.working_on(self.path):
            self._file.write(json.dumps({"step": step, "kind": kind} | dict(values)) + "\n")
        self._events.check()
        numbers = {f"{kind}/{k}": v for k, v in values.items()
                   if isinstance(v, int | float)} if scalars else {}
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        if self._tracker is not None and numbers:
            self._tracker.scalars(step, numbers)

    def artefacts(self, step: int, name: str, artefacts: Mapping[str, Mapping[str, Any]]) -> None:
        """{"images": {tag: (H, W, 3) uint8}, "audio": {tag: (samples (N,) float, rate)}, "text":
        {tag: str}}."""
        for tag, image in artefacts.get("images", {}).items():
            self._events.add_image(f"{name}/{tag}", np.asarray(image), step, dataformats="HWC")
        for tag, (samples, rate) in artefacts.get("audio", {}).items():
            samples = np.clip(np.asarray(samples, np.float32), -1, 1)
            self._events.add_audio(f"{name}/{tag}", samples[:, None], step, sample_rate=int(rate))
        for tag, text in artefacts.get("text", {}).items():
            self._events.add_text(f"{name}/{tag}", text, step)

    def progress(self, step: int, **shown: str) -> None:
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """A line for the reader, above the bar."""
        if self._quiet:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        self._events.close()
        with contextlib.suppress(OSError):  # of a record that could not be written before
            self._file.close()
        if self._tracker is not None:
            self._tracker.close()


class Silent:
    """The Telemetry of processes that leave the telling to host 0."""

    def _nothing(self, *args, **kwargs) -> None:
        pass

    record = artefacts = progress = say = close = _nothing


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
    """{"slowest_data_wait_seconds", "slowest_host"} over all hosts, on host 0: its own split cannot
    tell another host's late batch from the device's work. Nobody waits here, so what the others say
    may be one log step old."""
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


def speeds(speed: Mapping[str, float], positions: Mapping[str, int], mfu_a_step: float) -> str:
    """A line on a whole run: `split` of its first and last mark, positions of a step, MFU at one
    step a second."""
    if not speed:
        return "no steps"
    parts = [f"{1e3 * speed['step_seconds']:.4g} ms"]
    parts += [f"{name} {1e3 * speed[key]:.3g}" for name, key in (
        ("device", "device_seconds"), ("data wait", "data_wait_seconds"), ("host", "host_seconds"))
              if key in speed]
    rate, held = speed["steps_per_second"], memory()
    rates = [f"{n * rate:,.4g} {name}/s" for name, n in positions.items()]
    used = [f"host memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB"]
    used += ([f"device memory {held['device_peak_mb'] / 1e3:.2f} GB"] if "device_peak_mb" in held
             else [])
    return (f"a step {', '.join(parts)}; {', '.join(rates)}, MFU {rate * mfu_a_step:.1%}; at most "
            f"{', '.join(used)}")


def _drop_after(path: Path, step: int, again: Sequence[str] = ()) -> None:
    def keeps(line: str) -> bool:
        try:
            record = json.loads(line)
            return record["step"] < step or record["step"] == step and record["kind"] not in again
        except (ValueError, KeyError):
            return False  # the line a kill cut short

    lines = path.read_text().splitlines(keepends=True)
    paths.write_text(path, "".join(line for line in lines if keeps(line)))


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def start_report(config, system, state, compiled, mesh, peak: float, peak_source: str) -> str:
    """Parameters, memory, batch, mesh, FLOPs: what a reader checks before leaving a run alone."""
    rows: dict[str, list[int]] = {}
    for name, leaf in named_leaves(state["params"]):
        # Layers that differ only in their number share a row.
        row = rows.setdefault(re.sub(r"\d+", "*", "/".join(name.split("/")[:-1][:3]) or name),
                              [0, 0])
        row[0] += 1
        row[1] += leaf.size
    total = sum(size for _, size in rows.values())
    width = max(len(name) for name in rows)
    lines = ["parameters"]
    lines += [f"  {name:<{width}} {count:>4} arrays {size:>14,}" for name,
              (count, size) in rows.items()]
    lines.append(f"  {'total':<{width}} {'':>11} {total:>14,}")
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    memory = compiled.memory
    if memory is not None:
        live = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes \
            - memory.alias_size_in_bytes
        lines.append(f"memory a device: {megabytes(live)} (state and batch "
                     f"{megabytes(memory.argument_size_in_bytes)}, "
                     f"temporaries {megabytes(memory.temp_size_in_bytes)}); whole state "
                     f"{megabytes(held)}")
    micro = config.optimizer.accumulate
    packed = system.rows
    holds = " and ".join(f"{n} {of}" for of,
                         n in packed.capacity.items(
                             )) if packed else f"{config.data.segment} frames"
    lines.append(f"batch: {config.data.batch_size} {'rows of up to' if packed else 'examples x'} "
                 f"{holds} a step"
                 + (f", in {micro} micro-batches" if micro > 1 else ""))
    kinds = sorted({device.device_kind for device in mesh.devices.flat})
    lines.append(f"mesh: {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())} on "
                 f"{mesh.devices.size} "
                 f"device(s) ({', '.join(kinds)})")
    again = compiled.flops - compiled.model_flops
    executed = (f" (with what remat computes again {compiled.flops:.3e})" if again
                and not compiled.kept_anyway else "")
    if compiled.kept_anyway:
        lines.append(f"remat: {compiled.kept_anyway} parts that are not scanned layers keep their "
                     "memory here: XLA:CPU merges what is computed again with the original; on GPU "
                     "and TPU it is saved")
    lines.append(f"FLOPs a step: {compiled.model_flops:.3e}{executed}; peak {peak:.3e} a second "
                 f"({peak_source}); compiled in "
                 f"{compiled.compile_seconds:.1f} s")
    return "\n".join(lines)
