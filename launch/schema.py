"""What is declared about the fields of an experiment: configs/base.py for all, the config.py of its
system for `config.system`. One `validate` for every command."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from avjax.errors import UserError
from avjax.fields import Entry, Section, describe, resume_of
from avjax.systems import registry
from launch import ROOT, config_files

SYSTEM = "system."


@functools.cache
def experiment() -> type[Section]:
    """`Experiment` of configs/base.py: ours, whatever a user's own folder `configs` holds."""
    return config_files.load_module(ROOT / "configs" / "base.py").Experiment


def of_system(config) -> type[Section] | None:
    """The fields of `config.system`; None where its system declares none. UserError: unknown or
    missing name."""
    if "name" not in config.system:
        raise UserError("the config has no system", where="config.system.name",
                        expected=" | ".join(registry.names()))
    return registry.schema(config.system.name)


def validate(config, where: str = "config") -> None:
    """UserError for a field of another type, none of its choices, out of its bounds, or that does
    not fit another. Opens no file: what a config names may still be missing, see launch.preflight.

    Args:
      config: an experiment's.
      where: its key, e.g. of a stage's config.
    """
    experiment().check(config, where)
    if schema := of_system(config):
        schema.check(config.system, f"{where}.system")


def completed(recorded: Mapping) -> dict:
    """A recorded experiment with the defaults of the fields that came after it."""
    whole = experiment().completed(recorded)
    return whole | {"system": registry.completed(whole["system"])}


def entries(config) -> Iterator[Entry]:
    """Every field of an experiment with its document and value, those of its system in their
    place."""
    for entry in describe(experiment(), config):
        if entry.key == "system" and "name" in config.system:
            yield dataclasses.replace(entry, is_section=True, value=None, default=None)
            yield from describe(of_system(config) or Section, config.system, SYSTEM)
        else:
            yield entry


def may_change(config, key: str) -> bool:
    """Whether the field `key` may differ from the workdir's config.json when a run is resumed: it
    changes neither the model nor the sequence of updates."""
    if key.startswith(SYSTEM):
        schema = of_system(config) or Section
        resume = resume_of(schema, key.removeprefix(SYSTEM))
    else:
        resume = resume_of(experiment(), key)
    scheduled = config.optimizer.schedule in ("cosine", "linear")
    return resume == "free" or resume == "unscheduled" and not scheduled
