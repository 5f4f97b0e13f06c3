"""Tells whether a job fits, how fast it could be and its largest batch:

    avjax plan --config=configs/talker_0_6b.py

Plans a config's training step for a slice of TPUs or machines of GPUs without touching one:
--topology=v5e:16x16 [--slices=2], default config.plan. Shapes alone take seconds. Where XLA's
compiler for these chips is installed it compiles the loop's own step for the real topology, which
gives peak memory, collectives, kernels and expected time; --no_compile leaves that out.

XLA:GPU: pip install 'avjax[aot-gpu]'. XLA:TPU: pip install 'avjax[aot]'; or --libtpu=FOLDER, or
$AVJAX_LIBTPU, with what `pip install --no-deps --target=FOLDER 'libtpu==VERSION'` put there,
VERSION being what the installed JAX reads: 0.0.42.* for 0.10.2, 0.0.48.* for 0.11.2.

--search finds the best mesh and the largest batch; --scaling=16,64,256,512 plans the same share of
the batch on ever more chips. Exit code 2 where the job does not fit, with the numbers and what to
change.
"""

import dataclasses
import json
import sys
import time

from avjax.planning.topologies import EXAMPLES, parse, prepare_environment

prepare_environment()  # before anything imports JAX

from absl import flags  # noqa: E402

from avjax.errors import UserError  # noqa: E402
from avjax.planning import compilers  # noqa: E402
from launch import flags as launch_flags  # noqa: E402
from launch import plan_report  # noqa: E402


def define_flags() -> None:
    """--config, the slice, and what is planned."""
    launch_flags.define_config()
    flags.DEFINE_string("topology", "", f"The slice, e.g. {EXAMPLES}; default: the config's "
                        "plan.topology.")
    flags.DEFINE_integer("slices", 0, "Equal slices, or machines of GPUs, joined by DCN; "
                         "default: the config's.")
    flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")
    flags.DEFINE_bool("no_compile", False, "Shapes only, also where a compiler is at hand.")
    flags.DEFINE_string("libtpu", "", "libtpu.so or the folder it was installed to.")
    flags.DEFINE_bool("thorough", False, "Let XLA compile what training compiles: takes three to "
                      "six times as long, and XLA:TPU gives the step time that it expects.")
    flags.DEFINE_bool("search", False, "Find the best mesh and the largest batch.")
    flags.DEFINE_integer("compiles", 4, "Compilations that --search may spend.")
    flags.DEFINE_list("scaling", None, "Numbers of chips: weak scaling at a constant share "
                      "of the batch.")
    flags.DEFINE_float("rows", 0.0, "With --scaling: rows of the batch a chip; default: the "
                       "config's, on its slice.")


def main(argv) -> None:
    del argv
    args = flags.FLAGS
    if args.scaling and not all(n.isdigit() and int(n) for n in args.scaling):
        raise UserError("not numbers of chips", where="--scaling", expected="e.g. 16,64,256",
                        found=",".join(args.scaling))
    scaling = [int(n) for n in args.scaling] if args.scaling else None
    on = _topology(args.config, args.topology, args.slices)
    compiler = None if args.no_compile else compilers.find(on.chip, args.libtpu)
    try:
        data, lines, error = plan(args.config, on.name, on.slices, compiler=compiler,
                                  search=args.search, compiles=args.compiles, scaling=scaling,
                                  rows=args.rows, thorough=args.thorough)
    except Exception as error:
        known = None if compiler is None or isinstance(error, UserError) else (
            compiler.unreadable(error))
        if known is None:
            raise
        raise known from error
    if compiler is not None and compiler.remark():
        print(compiler.remark(), file=sys.stderr, flush=True)
    print(json.dumps(data, indent=1) if args.json else "\n".join(lines), flush=True)
    if error:
        raise error


def plan(config, topology: str = "", slices: int = 0, *,
         compiler: compilers.Compiler | None = None, search: bool = False, compiles: int = 4,
         scaling: list[int] | None = None, rows: float = 0.0,
         thorough: bool = False) -> tuple[dict | list, list[str], UserError | None]:
    """(what --json prints, what people read, the error of a job that does not fit). `topology` ""
    and `slices` 0: the config's own; `compiler`: of its chips, None = shapes only; the rest as the
    flags. Raises UserError for whatever cannot be planned."""
    start = time.perf_counter()
    on = _topology(config, topology, slices)
    from avjax.planning import planner
    from avjax.planning import search as searching

    job = planner.Job(config)
    if scaling:
        share = rows or config.data.batch_size / on.devices * on.chip.cores
        plans = searching.weak_scaling(job, on, scaling, rows=share, compiler=compiler,
                                       thorough=thorough)
        data = [plan_report.as_dict(config, p) for p in plans]
        return data, plan_report.scaling(config, plans), None
    if search:
        found, best = searching.search(job, on, compiler=compiler, compiles=compiles,
                                       log=lambda line: print(line, file=sys.stderr, flush=True))
        report = plan_report.report(config, best, time.perf_counter() - start)
        data = plan_report.as_dict(config, best)
        data["candidates"] = [dataclasses.asdict(candidate) for candidate in found]
        return data, [*plan_report.candidates(found[:8], best), "", *report], None
    made = job.plan(on, compiler=compiler, thorough=thorough)
    lines = plan_report.report(config, made, time.perf_counter() - start)
    if compiler is None:
        name = compilers.name_for(on.chip)
        lines.append(f"By shapes alone. {name} (pip install 'avjax[{compilers.EXTRAS[name]}]') "
                     "tells real memory, collectives, kernels and time.")
    return plan_report.as_dict(config, made), lines, None if made.fits else _too_large(job, made)


def _topology(config, topology: str, slices: int):
    """That of the flags, else the config's own."""
    return parse(topology or config.plan.topology or _missing(), slices or config.plan.slices)


def _missing() -> str:
    raise UserError("no slice given", expected=f"--topology, e.g. {EXAMPLES}",
                    hint="or state it in the config: c.plan.topology")


def _too_large(job, plan) -> UserError:
    from avjax.planning.advice import advice

    chip = plan.topology.chip
    found = f"{plan.needed / 2**30:.2f} GiB" if plan.needed > chip.hbm + 1 else "more than that"
    by = f"by {plan.compiler or 'shapes'}"
    return UserError("the job does not fit", where=f"{plan.topology.described}, batch {plan.batch}",
                     found=f"{found} {by}", expected=f"at most {chip.hbm / 2**30:.2f} GiB a device",
                     hint=" or ".join(advice(job, plan)))


if __name__ == "__main__":
    define_flags()
    launch_flags.run(main)
