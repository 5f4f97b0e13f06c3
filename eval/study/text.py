"""The report of a study as a table."""

from collections.abc import Mapping

from eval.report.tables import number


def text(report: Mapping) -> str:
    """Of `eval.study.score.score`."""
    lines = [f"study {report['study']}: {len(report['raters'])} raters counted"]
    lines += [f"  left out: {line}" for line in report["excluded"]]
    lines += [f"  incomplete: {line}" for line in report["incomplete"]]
    shown = _mos if report["kind"] == "mos" else _pairwise
    for question, found in report["questions"].items():
        lines += ["", f"{question}", *shown(found, report)]
    return "\n".join(lines)


def _wide(names) -> int:
    return 2 + max(map(len, names), default=0)


def _half(value) -> str:
    return "-" if value is None else f"{value:.2f}"


def _p(value) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _needed(row, report) -> str:
    what = f"{report['difference']:g}"
    return (f"raters for {what}: {row['needed']}" if row["needed"] else
            f"raters for {what}: not known, the raters' differences do not spread")


def _mos(found, report) -> list[str]:
    wide = _wide([*found["conditions"], "condition"])
    lines = [f"  {'condition':<{wide}}{'mean':>6} {'± of ratings':>14}{'± of raters':>13}"
             f"{'ratings':>9}{'raters':>8}"]
    for name, x in found["conditions"].items():
        mean = "-" if x["mean"] is None else f"{x['mean']:.2f}"
        lines.append(f"  {name:<{wide}}{mean:>6} {_half(x['half']):>14}"
                     f"{_half(x['half_raters']):>13}{x['n']:>9}{x['raters']:>8}")
    lines.append("  ±: half of the 95 % t interval, over all ratings as papers print it, and over "
                 "the raters' means")
    for d in found["differences"]:
        interval = "" if d["low"] is None else f" [{d['low']:+.2f}, {d['high']:+.2f}]"
        lines.append(f"  {d['a']} - {d['b']}: {d['mean']:+.2f}{interval}, p {_p(d['p'])}, "
                     f"corrected {_p(d['p_holm'])}; {_needed(d, report)}")
    own = found["agreement"]
    lines.append(f"  agreement: Krippendorff's alpha {number(own['alpha'])}; ICC(2,1) "
                 f"{number(own['icc_1'])}, ICC(2,k) {number(own['icc_k'])} of the "
                 f"{own['stimuli']} that all {own['raters']} raters judged")
    return lines


def _pairwise(found, report) -> list[str]:
    lines = []
    for pair in found["pairs"]:
        rate = "-" if pair["rate"] is None else (
            f"{pair['rate']:.0%} [{pair['low']:.0%}, {pair['high']:.0%}]")
        raters = "-" if pair["mean_raters"] is None else f"{pair['mean_raters']:.0%}"
        half = "" if pair["half_raters"] is None else f" ± {pair['half_raters']:.0%}"
        lines.append(f"  {pair['a']} over {pair['b']}: {rate} of {pair['n'] - pair['ties']}, "
                     f"{pair['ties']} ties, sign test p {_p(pair['p'])}, corrected "
                     f"{_p(pair['p_holm'])}; by raters {raters}{half}; {_needed(pair, report)}")
    left = found["left"]
    if left["rate"] is not None:
        lines.append(f"  A (left) was preferred in {left['rate']:.0%}, p {_p(left['p'])}")
    lines.append(f"  agreement: Krippendorff's alpha {number(found['agreement']['alpha'])}")
    return lines
