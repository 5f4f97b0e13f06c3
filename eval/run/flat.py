"""The rows of results.json as one flat table, for pandas, DuckDB and others: a line a variant of an
example."""

import json

from avjax.storage import atomic

FILE = "results.rows.parquet"
FIRST = ("split", "id", "variant")
_OF_ROWS = {"split", "id", "text", "media"}


def columns(results: dict) -> dict[str, list]:
    """{column: values}: `split`, `id`, `variant`, `text`, `failed` (why there are no numbers, else
    None), then what each variant's row holds. A column of numbers is float, None where a line has
    none; any other is text, with lists and counts as JSON."""
    lines = [{"split": row["split"], "id": row["id"], "variant": variant, "text": row.get("text"),
              **entries}
             for row in results["rows"] for variant, entries in row.items()
             if variant not in _OF_ROWS]
    lines += [{"split": f["split"], "id": f["id"], "variant": f["variant"], "failed": f["reason"]}
              for f in results.get("failed", ())]
    lines.sort(key=lambda line: [line[name] for name in FIRST])
    names = dict.fromkeys([*FIRST, "text", "failed", *(n for line in lines for n in line)])
    return {name: _column([line.get(name) for line in lines]) for name in names}


def _column(values: list) -> list:
    known = [x for x in values if x is not None]
    if known and all(isinstance(x, int | float) for x in known):
        return [None if x is None else float(x) for x in values]
    return [x if x is None or isinstance(x, str) else json.dumps(x) for x in values]


def write(folder, results: dict) -> None:
    """results.rows.parquet, whole or not at all. A column without a value is text."""
    import pyarrow
    from pyarrow import parquet

    found = columns(results)
    types = {name: pyarrow.float64() if any(isinstance(x, float) for x in values)
             else pyarrow.string() for name, values in found.items()}
    table = pyarrow.table({name: pyarrow.array(values, types[name])
                           for name, values in found.items()})
    with atomic.file(folder / FILE) as temporary:
        parquet.write_table(table, temporary)
