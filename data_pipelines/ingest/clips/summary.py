"""What was accepted and what was not: OUT/summary.json, and the table that is printed."""

import collections

from data_pipelines.ingest.common.recordings import FPS
from data_pipelines.media.facial import filters


def summarise(options, good, lengths, pieces, refused, seconds, cut) -> dict:
    """JSON of the accepted recordings (source, file), their frames, the pieces, refusals and what
    filters cut out: {id: {filter: frames}}."""
    rows = {}
    for speaker in sorted({item.speaker for item, _ in good}):
        rows[speaker] = {"recordings": sum(item.speaker == speaker for item, _ in good),
                         "seconds": round(sum(lengths[i.id] for i, _ in good if i.speaker
                                              == speaker) / FPS, 2)}
        for split, part in pieces.items():
            rows[speaker][split] = round(sum(b - a for i, a, b in part if i.speaker
                                             == speaker) / FPS, 2)
    reasons = dict(collections.Counter(row["reason"] for row in refused).most_common())
    return {"options": options, "speakers": rows, "refused": reasons, "quarantine": refused,
            "cut": {reason: {"seconds": round(sum(c.get(reason, 0) for c in cut.values()) / FPS, 2),
                             "recordings": sum(c.get(reason, 0) > 0 for c in cut.values()),
                             "rule": rule}
                    for reason, rule in filters.Limits(**options["filter"]).said().items()}
            if options["filter"] else {},
            "longest": max(sorted(seconds), key=seconds.get)}


def describe(summary: dict, out) -> str:
    """The summary as a table."""
    width = max([7, *map(len, summary["speakers"])])
    lines = [f"{'speaker':{width}}  recordings  seconds    train    valid"]
    for name, row in summary["speakers"].items():
        times = "  ".join(f"{row[key]:7.1f}" for key in ("seconds", "train", "valid"))
        lines.append(f"{name:{width}}  {row['recordings']:10d}  {times}")
    if summary.get("cut"):
        used = sum(row[split] for row in summary["speakers"].values()
                   for split in ("train", "valid"))
        lines += ["", "cut out by filters (a frame may break several; what lies between for less "
                  f"than 2 s goes too; {used:.1f} s are left):"]
        lines += [f"  {reason}: {row['seconds']:.1f} s of {row['recordings']} recordings "
                  f"({row['rule']})" for reason, row in summary["cut"].items()]
    if summary["quarantine"]:
        lines += ["", "refused (quarantine.jsonl):"]
        lines += [f"  {row['id']}: {row['detail']}" for row in summary["quarantine"]]
    lines += ["", f"written: {out}"]
    if len(summary["speakers"]) > 1:
        lines += [f"most material: {summary['longest']}. One model speaks for one identity: to "
                  "train on it, prepare "
                  f"into another --out with --speaker={summary['longest']} (or --longest_identity)"]
    return "\n".join(lines)
