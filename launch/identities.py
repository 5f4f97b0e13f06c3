"""Whether a model of several people can tell whose speech and face an example is."""

import sys

from avjax.errors import UserError
from avjax.hosts import distributed
from data_pipelines.store.schema import SPEAKERS

# inputs that tell one person from another
_WHO = frozenset({"identity", "voice", "voices", "faces", "reference", "portraits"})
_SHOWN = 5


def check(system, dataset, *, begun: bool) -> None:
    """Warns on host 0 if the training examples are of several people and no input of the model
    tells them apart.

    Raises:
      UserError: a new job whose face codes mean something else for each of them (eigenfaces of each
        person's own): it would learn no face. `begun` jobs continue with what they have.
    """
    features = system.example_spec
    if "face" not in features or _WHO & features.keys() or SPEAKERS not in dataset.codecs:
        return
    names = [str(name) for name in dataset.codec(SPEAKERS)["names"]]
    if len(names) < 2:
        return
    found = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        found += f" and {len(names) - _SHOWN} more"
    hint = ("--config.system.identity_dim=8 tells them apart; or avjax prepare one of them "
            f"alone, into another --out with --speaker={names[0]} or --longest_identity")
    if dataset.recipes.get("face", {}).get("kind") == "eigenface" and not begun:
        raise UserError(f"{len(names)} people, and a model that cannot tell them apart",
                        where=str(dataset.dir),
                        expected="one person, whose face codes mean one face", found=found,
                        hint=hint)
    if distributed.is_main():
        print(f"{len(names)} people in one model that cannot tell them apart ({found}): it learns "
              f"their average. {hint}", file=sys.stderr, flush=True)
