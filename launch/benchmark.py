"""Measures the speed of a config: avjax benchmark --config=configs/avflow_released.py --json

Measures what avjax/systems/<system>/benchmark.py declares (the training step, as the loop compiles
it, and sampling), and the loader when the data that the config names is there; reports medians of
several runs with their range, compile times, peak memory, FLOPs and the share of a measured matrix
product's rate. With --peer='COMMAND' another program is run alternately with each measurement: it
reads the case from AVJAX_CASE (JSON) in its environment, and prints a JSON list of its own seconds
(one a run) as the last line, an empty one for a case that it does not have; the ratio of medians is
reported.
Sampling is on one device, but on CPUs on the config's mesh where that splits time, a CPU device for
each part (config.mesh.seq; JAX_NUM_CPU_DEVICES).
No data is needed: inputs are random. With --consumer=CONFIG the loader is measured instead, on
made-up features of the size that --config's system reads, against what the training of CONFIG
consumes, which runs alone and beside it:
    avjax benchmark --config=configs/tavid.py:temporal \\
        --consumer=configs/tavid_quickstart.py:temporal
--plan runs nothing and counts FLOPs and bytes of the training step from shapes.
"""

import json

from absl import flags

from launch import flags as launch_flags

CONFIG = launch_flags.define_config()
JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")
BATCH = flags.DEFINE_integer("batch", None, "Examples in a training step, or rows where the system "
                                            "packs; default: the system's.")
SEGMENT = flags.DEFINE_integer("segment", None, "Frames of a training example; default: the "
                                                "system's.")
TEXT = flags.DEFINE_integer("text", None, "Text tokens of an example, where the system reads any; "
                            "default: the system's.")
LENGTHS = flags.DEFINE_list("lengths", None, "Frames to sample, one example each; empty = none; "
                                             "default: the system's.")
STEPS = flags.DEFINE_integer("steps", None, "Solver steps of a sample; default: the system's.")
RUNS = flags.DEFINE_integer("runs", 3, "Measured runs of everything, after one unmeasured.")
PLAN = flags.DEFINE_bool("plan", False, "Only count FLOPs and bytes of the training step, from "
                                        "shapes.")
CONSUMER = flags.DEFINE_string("consumer", "", "Config of a training: measure the loader against "
                               "it.")
RECORDS = flags.DEFINE_integer("records", 24, "Made-up examples of --consumer.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 10.0, "Length of one of them.", lower_bound=0.04)
PEER = flags.DEFINE_string("peer", "", "Command to run alternately; see above.")


def main(argv) -> None:
    del argv
    from launch.jobs import benchmark

    if PLAN.value:
        rows = benchmark.plan(CONFIG.value, batch=BATCH.value, segment=SEGMENT.value,
                              text=TEXT.value)
        print(json.dumps(rows, indent=1) if JSON.value else
              "\n".join(f"{row['name']:36s} {row['value']:12.3f} {row['unit']}" for row in rows))
        return
    if CONSUMER.value:
        from launch.jobs import loading

        sizes = loading.Sizes(records=RECORDS.value, seconds=SECONDS.value)
        rows = loading.measure(CONFIG.value, launch_flags.load_config(CONSUMER.value), sizes)
        print(json.dumps(rows, indent=1) if JSON.value else loading.table(rows))
        return
    benchmark.make_cpu_devices(CONFIG.value)
    lengths = None if LENGTHS.value is None else tuple(int(n) for n in LENGTHS.value if n)
    rows = benchmark.benchmark(CONFIG.value, batch=BATCH.value, segment=SEGMENT.value,
                               text=TEXT.value, steps=STEPS.value, lengths=lengths,
                               runs=RUNS.value, peer=PEER.value)
    if JSON.value:
        print(json.dumps(rows, indent=1))
        return
    if rows["note"]:
        print(rows["note"])
    print(f"{rows['machine']}; matrix products {rows['matmul_gflops']:.0f} GFLOP/s")
    for row in rows["cases"]:
        extra = (f"  x{row['ratio']:.3f} of the peer's {row['peer']['median']:.3f}"
                 if "ratio" in row else "")
        share = (f"  {100 * row['share_of_matmul']:.0f} % of matmul rate"
                 if "share_of_matmul" in row else "")
        parts = "".join(f"  {name} {value:.3g}" for name, value in row.get("parts", {}).items())
        print(f"{row['name']:28s} {row['median']:9.4f} s  [{row['min']:.4f} .. "
              f"{row['max']:.4f}]{parts}{share}{extra}")


if __name__ == "__main__":
    launch_flags.run(main)
