"""Examples that could not be generated, decoded or scored: listed, the others kept."""

from avjax.errors import UserError
from avjax.hosts.peers import first_line

SHOWN = 20  # of one reason


def reason_of(error: Exception) -> str:
    """One line that says what went wrong."""
    return str(error) if isinstance(error, UserError) else first_line(error)


def lines(results: dict) -> list[str]:
    """For the terminal: a line a reason, with the examples and their variants; none where all were
    scored."""
    of_reason: dict[tuple[str, str], dict[str, list[str]]] = {}
    for f in results.get("failed", ()):
        found = of_reason.setdefault((f["split"], f["reason"]), {})
        found.setdefault(f["id"], []).append(f["variant"])
    out = []
    for (split, reason), ids in of_reason.items():
        names = [f"{name} ({', '.join(variants)})" for name, variants in ids.items()]
        more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
        out.append(f"failed, {split}: {', '.join(names[:SHOWN])}{more}: {reason}")
    return out
