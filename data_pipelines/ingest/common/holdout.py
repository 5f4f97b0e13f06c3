"""What is held out where a corpus' owners hold out nothing: a share of the names (of people, of
recordings) by a hash of each, so that more data moves nothing from one side to the other."""

import hashlib
from collections.abc import Iterable


def by_name(names: Iterable[str], share: float) -> set[str]:
    """The names that are held out; of two or more at least one, unless `share` is 0. Names of which
    nothing can be used do not belong here: a split of them alone would be empty."""
    places = {name: place(name) for name in names}
    if not share or len(places) < 2:
        return set()
    lowest = min(places, key=places.get)
    return {name for name, at in places.items() if at < share} | {lowest}


def place(name: str) -> float:
    """0 <= p < 1, fixed by the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48
