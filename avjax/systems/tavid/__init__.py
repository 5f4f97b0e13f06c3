"""TAVID (arXiv:2512.20296): a dialogue's text and a portrait of each speaker -> two (or more)
voices and faces that interact.

Its parts are Systems of their own, trained one after the other, each on the frozen ones before it:
    vae       pictures <-> latents                          (before S0, or published weights)
    text      S1  dialogue text -> units of every speaker
    acoustic  S2  units and voices -> a clean mel a speaker
    visual    S3  appearance, S4 motion attention, S5 temporal modules: units and a portrait ->
                  latent video
    mapper        the Motion Mapper alone: warm start of S4, and the ablation joint | dual | concat
    speaker   S6  portrait -> voice
This folder's own System is all of them in one tree of parameters: S7 adapts the acoustic part to
mapped voices, `generate` makes dialogues.
"""

__all__ = ["System"]


def __getattr__(name: str):
    """`System` on first use: a part alone then needs no other part."""
    if name != "System":
        raise AttributeError(name)
    from avjax.systems.tavid.system import System

    return System
