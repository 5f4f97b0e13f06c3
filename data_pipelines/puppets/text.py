"""What the puppets say: sentences from templates over a closed vocabulary, every word of which a
recogniser knows."""

import re

import numpy as np

_LISTS = {
    "who": "my brother|my mother|my father|the baby|the farmer|the pilot|a happy puppy|the old "
           "man|my best friend|the small boy|the young woman|our teacher|the brown bear|a big "
           "purple bird|the painter|the shop keeper",
    "thing": "apple|book|boat|map|lamp|pumpkin|cup|paper box|blue pen|window|garden|river|mountain|"
             "piano|table|blanket|camera|bottle|ribbon|pizza|kitchen|violin|rope|jam|bubble|"
             "purple hat|bicycle|letter",
    "people": "people|animals|puppies|bees|horses|children|boys|girls|monkeys|lambs|pigs|sheep",
    "many": "some|many|seven|five|eleven|nine|twelve|all|most|about eight",
    "adjective": "big|small|happy|brown|blue|purple|empty|yellow|pretty|warm|simple|broken|"
                 "beautiful|heavy|lovely|new|old|deep|open|green",
    "did": "bought|painted|opened|moved|dropped|found|wanted|made|kept|showed "
           "me|borrowed|washed|picked|tapped|remembered",
    "go": "jumped|walked|climbed|ran|swam|moved|drove|slept|bumped|played",
    "where": "home|over the bridge|by the river|in the park|up the mountain|behind the house|to "
             "the boat|from the farm|under the table|on the beach|near the town|through the forest",
    "when": "today|this morning|at noon|before lunch|every summer|after the storm|last week|in the "
            "evening|at home|on my birthday",
    "how": "slowly|quickly|happily|very well|together|by mistake|for fun|every time",
    "clause": "when it rained|because we were hungry|while the music played|if you are ready|as "
              "the sun came up|before the bell rang|although it was late",
    "opening": "well|maybe|oh boy|of course|in my opinion|after a while|by the way|hopefully",
}
_WORDS = {k: v.split("|") for k, v in _LISTS.items()}
_TEMPLATES = (
    "{who} {did} the {adjective} {thing} {when}.",
    "{opening}, {who} {did} a {thing} and {go} {where}.",
    "{many} {people} {go} {how} {where} {when}.",
    "{clause}, {who} {go} {where} {how}.",
    "{who} and {who} {go} {where} {clause}.",
    "did {many} {people} move the {adjective} {thing} {when}?",
    "why is the {adjective} {thing} so {adjective} {when}?",
    "can you bring me the {thing}, and a {adjective} {thing}?",
    "what a {adjective} {adjective} {thing} {who} {did} {when}!",
    "{opening}, we love the {adjective} {thing} {where}!",
    "give {who} the {adjective} {thing}, please, {clause}.",
    "the {thing} and the {thing} are both {adjective} {when}.",
)
BACKCHANNELS = ("yeah", "right", "okay", "oh", "i see", "sure", "wow")
_OPENINGS = ("hello my friend, how are you {when}?", "hey, do you remember {who}?")


def vocabulary() -> list[str]:
    """Every word of the corpus, sorted, lower case."""
    everything = " ".join(["an", *_TEMPLATES, *BACKCHANNELS, *_OPENINGS,
                           *(w for v in _WORDS.values() for w in v)])
    return sorted(set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", everything))))



def fill(template: str, rng: np.random.Generator) -> str:
    """One sentence of a template, without repeated choices."""
    used = set()

    def pick(match):
        options = [w for w in _WORDS[match.group(1)] if w not in used]
        word = options[rng.integers(len(options))]
        used.add(word)
        return word

    sentence = re.sub(r"\{(\w+)\}", pick, template)
    sentence = re.sub(r"\ba ([aeiou])", r"an \1", sentence)
    return sentence[0].upper() + sentence[1:]


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    """`count` different sentences."""
    out = {}
    while len(out) < count:
        out[fill(_TEMPLATES[rng.integers(len(_TEMPLATES))], rng)] = None
    return list(out)


def opening(rng: np.random.Generator) -> str:
    """What a dialogue begins with."""
    return fill(_OPENINGS[rng.integers(len(_OPENINGS))], rng)
