"""What a reason claims, in a small closed grammar, and how it stands against the logged or measured cues of a clip.

A claim is `VALUE CUE` in a list after "I see" or "I hear": "I see raised brow, wide eyes. I hear high pitch, bad words."
"no face", "no voice" and "no words" claim an absence. Anything else is text without a claim.
"""

import re
from dataclasses import dataclass

CUES = {
    "brow": ("face", ("raised", "oblique", "lowered")), "eyes": ("face", ("wide", "narrowed")), "nose": ("face", ("wrinkled",)),
    "mouth": ("face", ("smiling", "downturned", "pressed")), "jaw": ("face", ("dropped",)), "face": ("face", ("still", "no")),
    "pitch": ("voice", ("high", "low", "level")), "range": ("voice", ("wide", "narrow", "medium")),
    "rate": ("voice", ("fast", "slow", "medium")), "timbre": ("voice", ("pressed", "trembling", "soft", "clear")),
    "voice": ("voice", ("no",)), "words": ("words", ("good", "bad", "plain", "no")),
}
_ONE = "|".join(f"{value} {cue}" for cue, (_, values) in CUES.items() for value in values)
_CLAIM = re.compile(rf"(?<![\w-])({_ONE})(?![\w-])")
_SENTENCE = re.compile(r"\bI (?:see|hear) ([^.]*)\.")


@dataclass(frozen=True)
class Standing:
    """Counts of one reason's distinct claims. `cues` is how many there were to name."""

    supported: int
    contradicted: int       # the cue is there and says otherwise, or an absence is claimed of what is there
    absent: int             # the claim is about a modality that the clip does not have
    unsupported: int        # nothing of the kind was logged, or it cannot be observed
    cues: int

    @property
    def claims(self):
        return self.supported + self.contradicted + self.absent + self.unsupported

    @property
    def precision(self):
        return self.supported / self.claims if self.claims else 0.0

    @property
    def recall(self):
        return self.supported / self.cues if self.cues else 0.0

    @property
    def f1(self):
        return 2 * self.supported / (self.claims + self.cues) if self.claims + self.cues else 0.0


def read(think):
    """The distinct claims of a text as `(cue, value)`, in order."""
    out = []
    for sentence in _SENTENCE.findall(think):
        for part in sentence.split(","):
            found = _CLAIM.fullmatch(part.strip())
            if found:
                value, cue = found.group(1).split()
                if (cue, value) not in out:
                    out.append((cue, value))
    return out


def empty(think):
    """How many items of the lists are no claim: stammering and made-up words, which must not come free."""
    return sum(not _CLAIM.fullmatch(part.strip()) for sentence in _SENTENCE.findall(think) for part in sentence.split(","))


def measured(cues):
    """Whether cues were measured (`mien eval measure`: `known` are the values that are told apart, `value` may be none of them), not logged."""
    return any("known" in c for c in cues)


def without(cues, left_out):
    """The cues of a clip whose modalities `left_out` are not given: of measured ones it is then known that they are not there."""
    kept = tuple(c for c in cues if c["modality"] not in left_out)
    if not measured(cues):
        return kept
    return kept + tuple({"modality": name, "cue": name, "value": "no", "known": ["no"], "observable": True} for name in left_out)


def observable(cues):
    """The claims that are true of a clip: its observable cues, and the absence of what is missing; of measured cues what was found."""
    true = {(c["cue"], c["value"]) for c in cues if c["observable"] and c["value"]}
    if measured(cues):
        return true
    present = {c["modality"] for c in cues if c["observable"]}
    return true | {(name, "no") for name in ("face", "voice", "words") if name not in present}


def write(cues, dice=None, unsaid=0.0):
    """The sentences that claim everything observable of a clip, and nothing else; with `dice` each claim is left out with the chance `unsaid`."""
    true = observable(cues)
    order = {cue: i for i, cue in enumerate(CUES)}
    ranked = [c for c in sorted(true, key=lambda c: (order[c[0]], c[1])) if dice is None or dice.random() >= unsaid]
    seen = [f"{v} {c}" for c, v in ranked if CUES[c][0] == "face"]
    heard = [f"{v} {c}" for c, v in ranked if CUES[c][0] != "face"]
    return " ".join(f"{lead} {', '.join(said)}." for lead, said in (("I see", seen), ("I hear", heard)) if said)


def _check_measured(think, cues):
    """The verdicts of `mien`: what nothing measures, or not now, is unsupported. That nothing is seen does not show that a face is still."""
    by_name = {c["cue"]: c for c in cues}
    gone = {c["modality"] for c in cues if c["observable"] and c["value"] == "no"}
    count = dict.fromkeys(("supported", "contradicted", "absent", "unsupported"), 0)
    for cue, value in read(think):
        found = by_name.get(cue)
        if (cue, value) == ("face", "still"):
            moves = any(c["modality"] == "face" and c["observable"] and c["value"] for c in cues)
            count["contradicted" if moves else "unsupported"] += 1
        elif value != "no" and CUES[cue][0] in gone:
            count["absent"] += 1
        elif found is None or not found["observable"] or value not in found["known"] and not found["value"]:
            count["unsupported"] += 1
        else:
            count["supported" if found["value"] == value else "contradicted"] += 1
    return Standing(**count, cues=sum(bool(c["observable"] and c["value"]) for c in cues))


def check(think, cues):
    """How the claims of `think` stand against the logged or measured `cues`."""
    if measured(cues):
        return _check_measured(think, cues)
    true = observable(cues)
    present = {CUES[cue][0] for cue, value in true if value != "no"}
    known = {cue for cue, _ in true}
    count = dict.fromkeys(("supported", "contradicted", "absent", "unsupported"), 0)
    for cue, value in read(think):
        modality = CUES[cue][0]
        if (cue, value) in true:
            count["supported"] += 1
        elif value == "no":
            count["contradicted"] += 1
        elif modality not in present:
            count["absent"] += 1
        elif cue in known or ("face", "still") in true and modality == "face" or (cue, value) == ("face", "still"):
            count["contradicted"] += 1
        else:
            count["unsupported"] += 1
    return Standing(**count, cues=len(true))
