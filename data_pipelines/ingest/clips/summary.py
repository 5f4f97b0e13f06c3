"""What was accepted and what was not: OUT/summary.json, and the table that is printed."""

import collections

from data_pipelines.ingest.common.recordings import FPS


def summarise(options, good, lengths, pieces, refused, seconds) -> dict:
    """JSON of the accepted recordings (source, file), their frames, the pieces and refusals."""
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
            "longest": max(sorted(seconds), key=seconds.get)}


def describe(summary: dict, out) -> str:
    """The summary as a table."""
    width = max([7, *map(len, summary["speakers"])])
    lines = [f"{'speaker':{width}}  recordings  seconds    train    valid"]
    for name, row in summary["speakers"].items():
        times = "  ".join(f"{row[key]:7.1f}" for key in ("seconds", "train", "valid"))
        lines.append(f"{name:{width}}  {row['recordings']:10d}  {times}")
    if summary["quarantine"]:
        lines += ["", "refused (quarantine.jsonl):"]
        lines += [f"  {row['id']}: {row['detail']}" for row in summary["quarantine"]]
    lines += ["", f"written: {out}"]
    if len(summary["speakers"]) > 1:
        lines += [f"most material: {summary['longest']}. One model speaks for one identity: to "
                  "train on it, prepare "
                  f"into another --out with --speaker={summary['longest']} (or --longest_identity)"]
    return "\n".join(lines)
