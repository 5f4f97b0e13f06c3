"""Comparison of results, for `avjax evaluate --compare`."""

from avjax.errors import UserError
from eval.compare import compare, text


def run(paths: list[str], out: str | None) -> dict:
    """Prints the tables; writes compared.json and compared.txt into `out` where one is given.
    UserError: fewer than two, or results that cannot be compared."""
    if len(paths) < 2:
        raise UserError("nothing to compare with", where="--compare",
                        found=", ".join(paths) or "none",
                        expected="two or more folders of results: --compare A B")
    found = compare.compare(paths)
    print(text.text(found))
    if out:
        print("written: " + ", ".join(map(str, text.write(found, out))))
    return found
