"""Evaluates, generates, streams, plans and publishes a trained Portrait, in one process; prints the
results as JSON. PYTHONPATH holds this folder; arguments: workdir, folder of the output."""

import contextlib
import functools
import json
import sys
from pathlib import Path

from launch.config_files import load_config

HERE = Path(__file__).parent


def main(workdir: Path, out: Path) -> dict:
    import numpy as np

    from avjax.weights.reader import read_state_dict
    from data_pipelines.media import write_media
    from data_pipelines.store.dataset import open_dataset
    from launch import config_report, plan, training
    from launch.jobs import benchmark, evaluate, generate, targets, weights

    generate.ITERATIONS = 2  # of Griffin-Lim: nobody listens
    generate.Avatar = functools.cache(generate.Avatar)
    benchmark.matmul_rate = lambda: 1e11
    config = load_config(HERE / "configs" / "portrait.py", {"evaluate.max_examples": 1})
    config = training.fill_config(config, workdir)
    scores = evaluate.evaluate(config, workdir, progress=False)["summary"]["valid"]["model"]

    clip = open_dataset(workdir / "data" / "clips").source("valid")[0]
    speech = out / "speech.wav"
    write_media.write_wav(speech, clip["audio"][:22050].astype(np.float32) / 32768, 22050)
    generate.generate(workdir, out=out / "whole", audio=str(speech), save_latents=True)
    streamed = generate.stream(workdir, targets.targets(str(out / "streamed"), ""),
                               audio=str(speech))
    avatar = generate.Avatar(workdir)
    made = avatar.progress(avatar.prompt(audio=str(speech))).result
    with np.load(out / "whole.npz") as whole:
        differ = {name: float(np.abs(made[name][0, :len(x)] - x).max())
                  for name, x in whole.items()}

    planned, *_ = plan.plan(config)
    published, again = out / "portrait.pt", out / "again.safetensors"
    weights.export(str(workdir), str(published))
    weights.import_file("portrait", str(published), str(out / "imported"))
    weights.export(str(out / "imported"), str(again))
    ours, theirs = read_state_dict(published), read_state_dict(again)
    same = ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)
    counted = benchmark.plan(config)
    timed = benchmark.benchmark(config, batch=2, segment=16, runs=1)
    fields = config_report.report(str(HERE / "configs" / "portrait.py"), config, "list")
    return {"scores": {n: s["value"] for n, s in scores.items()}, "differ": differ,
            "streamed": streamed["complete"],
            "files": sorted(p.name for p in out.iterdir()), "plan": planned, "weights": same,
            "counted": counted[0]["name"], "timed": timed["note"], "fields": fields}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(result, default=str))
