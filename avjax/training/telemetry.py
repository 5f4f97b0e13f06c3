"""What a run tells: metrics.jsonl (one JSON record a line), TensorBoard events, a progress bar, a start-up report."""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from avjax.sharding.rules import named_leaves

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"


class Telemetry:
    """Records of one run. Records past `start` (a killed run's last moments, which will be repeated) are dropped."""

    def __init__(self, workdir: str | Path, *, start: int, total: int):
        self.path = Path(workdir) / METRICS
        if self.path.exists():
            _drop_after(self.path, start)
        self._file = self.path.open("a", buffering=1)
        self._events = SummaryWriter(str(Path(workdir) / EVENTS), purge_step=start + 1 if start else None,
                                     flush_secs=30)
        self._quiet = quiet = not sys.stderr.isatty()  # in a log file, a line now and then is enough
        self._bar = tqdm(total=total, initial=start, desc="train", unit="step", dynamic_ncols=True,
                         mininterval=10.0 if quiet else 0.2, maxinterval=30.0 if quiet else 1.0, smoothing=0.1)

    def record(self, step: int, kind: str, values: Mapping[str, Any], *, scalars: bool = True) -> None:
        """One line of metrics.jsonl, and the numbers among `values` as TensorBoard scalars "kind/name"."""
        self._file.write(json.dumps({"step": step, "kind": kind} | dict(values)) + "\n")
        for name, value in values.items() if scalars else ():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def artefacts(self, step: int, name: str, artefacts: Mapping[str, Mapping[str, Any]]) -> None:
        """{"images": {tag: (H, W, 3) uint8}, "audio": {tag: (samples (N,) float, rate)}, "text": {tag: str}}."""
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
        self._file.close()


def _drop_after(path: Path, step: int) -> None:
    def keeps(line: str) -> bool:
        try:
            return json.loads(line)["step"] <= step
        except (ValueError, KeyError):
            return False  # the line a kill cut short

    lines = path.read_text().splitlines(keepends=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line for line in lines if keeps(line)))
    os.replace(temporary, path)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


def start_report(config, system, state, compiled, mesh, peak: float, peak_source: str) -> str:
    """Parameters, memory, batch, mesh, FLOPs: what a reader checks before leaving a run alone."""
    rows: dict[str, list[int]] = {}
    for name, leaf in named_leaves(state["params"]):
        # Layers that differ only in their number share a row.
        row = rows.setdefault(re.sub(r"\d+", "*", "/".join(name.split("/")[:-1][:3]) or name), [0, 0])
        row[0] += 1
        row[1] += leaf.size
    total = sum(size for _, size in rows.values())
    width = max(len(name) for name in rows)
    lines = ["parameters"]
    lines += [f"  {name:<{width}} {count:>4} arrays {size:>14,}" for name, (count, size) in rows.items()]
    lines.append(f"  {'total':<{width}} {'':>11} {total:>14,}")
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    memory = compiled.memory
    if memory is not None:
        live = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes \
            - memory.alias_size_in_bytes
        lines.append(f"memory a device: {megabytes(live)} (state and batch {megabytes(memory.argument_size_in_bytes)}, "
                     f"temporaries {megabytes(memory.temp_size_in_bytes)}); whole state {megabytes(held)}")
    micro = config.optimizer.accumulate
    packed = getattr(system, "rows", None)
    holds = " and ".join(f"{n} {of}" for of, n in packed.capacity.items()) if packed else f"{config.data.segment} frames"
    lines.append(f"batch: {config.data.batch_size} {'rows of up to' if packed else 'examples x'} {holds} a step"
                 + (f", in {micro} micro-batches" if micro > 1 else ""))
    kinds = sorted({device.device_kind for device in mesh.devices.flat})
    lines.append(f"mesh: {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())} on {mesh.devices.size} "
                 f"device(s) ({', '.join(kinds)})")
    lines.append(f"FLOPs a step: {compiled.flops:.3e}; peak {peak:.3e} a second ({peak_source}); compiled in "
                 f"{compiled.compile_seconds:.1f} s")
    return "\n".join(lines)
