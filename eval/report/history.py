"""Curves of a training run, read from its metrics.jsonl."""

import json
import pathlib

import numpy as np

from avjax.errors import UserError


def read_history(path, limit: int = 9) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{scalar: (steps, values)} of a metrics.jsonl; the most telling ones first, at most
    `limit`."""
    path = pathlib.Path(path)
    if not path.exists():
        return {}
    series: dict[str, tuple[list, list]] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number_, line in enumerate(lines, 1):
        # the job still writes, or was killed writing, the last one
        if not line.strip() or not line.endswith("\n"):
            continue
        try:
            record = json.loads(line)
            step = record["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("unreadable metrics", where=f"{path}:{number_}",
                            expected="JSON with a step", found=line[:60],
                            hint="remove that line") from error
        kind = f"{record.get('kind', '')}/".lstrip("/")
        for key, value in ((kind + k, v) for k, v in record.items() if k not in ("step", "kind")):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(key, ([], []))
                series[key][0].append(step)
                series[key][1].append(float(value))

    def interest(key):
        words = ("loss", "f1_lips", "fd_e", "mel", "face", "head", "grad", "learning_rate", "lr",
                 "mfu", "second")
        return next((i for i, w in enumerate(words) if w in key.lower()), len(words)), key
    names = sorted((k for k, (s, _) in series.items() if len(s) > 1), key=interest)[:limit]
    return {k: (np.array(series[k][0]), np.array(series[k][1])) for k in names}
