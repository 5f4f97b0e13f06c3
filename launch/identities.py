"""Whether a model that is trained on several people is told whose speech and face an example is."""

import sys

from avjax.errors import UserError
from avjax.hosts import distributed
from data_pipelines.store.schema import SPEAKERS

# inputs that tell one from another
_WHO = frozenset({"identity", "voice", "voices", "faces", "reference", "portraits"})
_SHOWN = 5


def check(system, dataset, *, begun: bool) -> None:
    """Tells of several people in one model's training examples, if it knows no one from another.

    Raises:
      UserError: a new job whose face codes mean something else for each of them (eigenfaces of each
        person's own): it would learn no face. `begun` jobs go on with what they have.
    """
    if "face" not in system.example_spec or _WHO & system.example_spec.keys() or SPEAKERS not in dataset.codecs:
        return
    names = [str(name) for name in dataset.codec(SPEAKERS)["names"]]
    if len(names) < 2:
        return
    found = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN
                                         else "")
    way_on = ("--config.system.identity_dim=8 tells them apart; or launch.prepare one of them "
              "alone, into another --out with "
              f"--speaker={names[0]} or --longest_identity")
    if dataset.recipes.get("face", {}).get("kind") == "eigenface" and not begun:
        raise UserError(f"{len(names)} people, and a model that cannot tell them apart",
                        where=str(dataset.dir), expected="one person, whose face codes mean one "
                                                         "face", found=found, hint=way_on)
    if distributed.is_main():
        print(f"{len(names)} people in one model that cannot tell them apart ({found}): it learns "
              f"their average. {way_on}",
              file=sys.stderr, flush=True)
