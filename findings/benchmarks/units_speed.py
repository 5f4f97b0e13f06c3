"""Frames a second of `avjax extract --features=units` beside Hugging Face's transformers, on the
same random weights and cores, in turns within one run.

    python findings/benchmarks/units_speed.py --wavs=LJSpeech-1.1/wavs --peer=/other/bin/python

--peer is a Python that has torch, transformers, soundfile, soxr and numpy; avjax needs none of the
first two. Either side reads the recordings, brings them to 16 kHz, runs the network, takes the
nearest of 500 centroids and writes units: here the whole command, clips to shards, there a loop
over the files, one at a time without padding, which is the fastest on a CPU (batches only add
padding). Both have done everything once before the clock starts, so that compiling is not in it;
lengths are told apart as they are for a corpus of more than an hour. All layers are computed on
both sides unless --layer says that fewer are needed: transformers then still computes all, since
`output_hidden_states` returns every one. On a machine that others use as well, --passive keeps
PyTorch's threads from burning processor time while they wait for each other.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = {  # of transformers' configs
    "base": ("HubertModel", {}),
    "large": ("Wav2Vec2Model", {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
        "conv_bias": True})}
UNITS = 500


def peer(args, folder: pathlib.Path):
    """In the peer's Python: makes the weights, then a pass over the files for every line of
    stdin."""
    import numpy as np
    import soundfile
    import soxr
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name, sizes = SIZES[args.size]
    kind = getattr(transformers, name)
    network = kind(kind.config_class(**sizes)).eval()
    network.save_pretrained(folder / "weights")
    centroids = torch.randn(UNITS, network.config.hidden_size)
    np.save(folder / "centroids.npy", centroids.numpy())
    half = 0.5 * centroids.square().sum(1)
    layer = args.layer or network.config.num_hidden_layers

    def once() -> int:
        frames = 0
        for path in files(args):
            audio, rate = soundfile.read(path, dtype="float32")
            audio = torch.from_numpy(soxr.resample(audio, rate, 16000))[None]
            with torch.inference_mode():
                if layer < network.config.num_hidden_layers:
                    hidden = network(audio, output_hidden_states=True).hidden_states[layer][0]
                else:
                    hidden = network(audio).last_hidden_state[0]
                units = (half - hidden @ centroids.T).argmin(1).numpy()
            np.save(folder / "peer_units.npy", units)
            frames += len(units)
        return frames

    serve(once, f"torch {torch.__version__}, transformers {transformers.__version__}")


def ours(args, folder: pathlib.Path):
    """The same by avjax."""
    import jax
    import soundfile

    from avjax.encoders import speech_frames
    from data_pipelines.extract import extract
    from data_pipelines.features.common import units as common_units
    from data_pipelines.store import columns
    from data_pipelines.store import dataset as store

    speech_frames._MUCH = 0.0  # as for a corpus of more than an hour
    features = {k: columns.of_speaker(audio=22050)[k] for k in ("speaker", "audio")}
    features["id"] = columns.of_clip()["id"]
    rows = [{"id": f"{k}.{path.stem}", "speaker": "LJ",
             "audio": soundfile.read(path, dtype="int16")[0]}
            for k, path in enumerate(files(args))]
    store.write_dataset(folder / "clips", name="clips", description="LJSpeech", features=features,
                        splits={"train": rows}, recipes={}, progress=False)
    layer = args.layer or json.loads((folder / "weights/config.json").read_text())[
        "num_hidden_layers"]
    options = {"features": "units", "unit_encoder": str(folder / "weights"), "layer": layer,
               "progress": False}
    first = extract(folder / "clips", folder / "first", centroids=str(folder / "centroids.npy"),
                    **options)
    # both sides have read their weights before the clock starts
    encoder = common_units.of_dataset(first, options["unit_encoder"])
    common_units.of_dataset = lambda *_: encoder
    done = [first]

    def once() -> int:
        made = extract(folder / "clips", folder / f"units{len(done)}", like=str(first.dir),
                       **options)
        done.append(made)
        return int(made.lengths("train", ["units"])["units"].sum())

    serve(once, f"jax {jax.__version__}")


def serve(once, words: str):
    """Works once, says so, and then again for every line that comes in."""
    once()
    print(json.dumps({"ready": words}), flush=True)
    for _ in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        frames = once()
        print(json.dumps({"frames": frames, "seconds": time.perf_counter() - begun,
                          "cpu": time.process_time() - cpu}), flush=True)


def files(args) -> list[pathlib.Path]:
    found = sorted(pathlib.Path(args.wavs).glob("*.wav"))[:args.files]
    return found * args.repeat


def answer(process) -> dict:
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"{process.args[0]} ended; see above")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--wavs", required=True)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--layer", type=int, default=0, help="0 = the last")
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passive", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--role", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return {"ours": ours, "peer": peer}[args.role](args, pathlib.Path(args.folder))
    root = pathlib.Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        sides, found = {}, {"peer": [], "ours": []}
        for role, python in (("peer", args.peer), ("ours", sys.executable)):
            environment = os.environ | {"PYTHONPATH": str(root) if role == "ours" else ""}
            environment |= {"OMP_WAIT_POLICY": "passive"} if args.passive else {}
            sides[role] = subprocess.Popen(
                [python, __file__, *sys.argv[1:], f"--role={role}", f"--folder={folder}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            print(f"{role}: {answer(sides[role])['ready']}", flush=True)
        for _ in range(args.rounds):
            for role, process in sides.items():
                process.stdin.write("\n")
                process.stdin.flush()
                took = answer(process)
                found[role].append((took["frames"] / took["seconds"],
                                    args.threads * took["frames"] / took["cpu"]))
                print(f"{role}: {took['frames']} frames, {found[role][-1][0]:.0f} a second, "
                      f"{found[role][-1][1]:.0f} a second of all cores", flush=True)
        for process in sides.values():
            process.stdin.close()
            process.wait()
    for k, what in enumerate(("time", "time of processors")):
        mine, theirs = ([x[k] for x in found[role]] for role in ("ours", "peer"))
        pairs = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        print(f"frames a second by {what}: {statistics.median(mine):.0f} beside "
              f"{statistics.median(theirs):.0f}, median of ratios {pairs:.2f}")


if __name__ == "__main__":
    main()
