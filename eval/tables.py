"""The summary of an evaluation as plain text."""

import math

COLUMNS = (("F1_lips", "up"), ("F1_lips_dtw", "up"), ("F1_lips_clip", "up"), ("FD_e", "down"),
           ("FD_h", "down"), ("FD_e_pooled", "down"), ("FD_h_pooled", "down"), ("FK_e", "down"),
           ("Div_e", "truth"), ("Div_h", "truth"), ("BC_e", "truth"), ("BC_h", "truth"),
           ("BC_e_gap", "down"), ("BC_h_gap", "down"), ("FD_m", "down"),
           ("FD_m_pooled", "down"), ("FK_m", "down"), ("Div_m", "truth"), ("BC_m", "truth"),
           ("BC_m_gap", "down"),
           ("mel_L1", "down"),
           ("mel_L1_dtw", "down"), ("MCD", "down"), ("MCD_audio", "down"), ("WER", "down"),
           ("length_error", "down"),
           ("length_error_signed", "zero"), ("stop_within_2", "up"),
           # of dialogues
           ("FD_listen_e", "down"), ("FD_listen_h", "down"), ("FD_listen_e_pooled", "down"),
           ("FD_listen_h_pooled", "down"), ("SID_e", "truth"), ("SID_h", "truth"),
           ("var_listen_e", "truth"), ("var_listen_h", "truth"),
           ("PFD_e", "down"), ("PFD_e_shuffled", "up"), ("PFD_h", "down"), ("PFD_h_shuffled", "up"),
           ("RPCC_e", "down"), ("RPCC_e_other", "up"), ("RPCC_h", "down"), ("RPCC_h_other", "up"),
           *((f"{event}_{what}", "truth") for event in ("ipu", "turn", "gap", "pause", "overlap")
             for what in ("per_minute", "mean_s")),
           ("transfer_mean_s", "truth"),
           *((f"{event}_W1_s", "down") for event in ("turn", "gap", "pause", "overlap",
                                                     "transfer")),
           ("voice_R@1", "up"), ("voice_R@5", "up"), ("voice_times_chance", "up"),
           ("voice_cosine", "up"))
WIDEST = 4  # variants whose intervals still fit beside each other


def table(results: dict) -> str:
    """Metric by variant, then the targets, a split after the other. With many variants, values
    alone."""
    lines = []
    for split, variants in results["summary"].items():
        narrow = len(variants) > WIDEST
        width = 10 if narrow else 24
        width = max(width, 2 + max(map(len, variants)))
        lines += [f"{split}: {count(results, split)} examples  "
                  f"({'values' if narrow else 'value, then 95 % interval over examples'})",
                  f"  {'metric':<21}{'better':<8}" + "".join(f"{v:>{width}}" for v in variants)]
        for metric, better in shown(variants):
            entries = [variants[v].get(metric) for v in variants]
            cells = [cell(e).partition(" ")[0] if narrow else cell(e) for e in entries]
            lines.append(f"  {metric:<21}{better:<8}" + "".join(f"{c:>{width}}" for c in cells))
        for t in results["targets"].get(split, ()):
            lines.append(f"  target: {t['metric']} {t['target']}: "
                         f"{'met' if t['met'] else 'missed'} "
                         f"({number(t['value'])} against {number(t['limit'])})")
        lines.append("")
    return "\n".join(lines)


def shown(variants: dict[str, dict]) -> list[tuple[str, str]]:
    """The (metric, what is better) that any variant has."""
    return [(metric, better) for metric, better in COLUMNS
            if any(metric in v for v in variants.values())]


def count(results: dict, split: str) -> int:
    """Examples of a split that were scored."""
    return sum(row["split"] == split for row in results["rows"])


def number(value) -> str:
    """Three significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "-"
    return "0" if abs(value) < 1e-6 else f"{value:.3g}"


def cell(entry: dict | None) -> str:
    """One cell of the table."""
    if not entry or entry.get("value") is None or not math.isfinite(entry["value"]):
        return "-"
    if entry.get("low") is None:
        return number(entry["value"])
    return f"{number(entry['value'])} [{number(entry['low'])}, {number(entry['high'])}]"
