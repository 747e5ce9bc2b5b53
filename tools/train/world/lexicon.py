"""The sentences of the world and how they are pronounced.

A sentence is a carrier with one word, as a rule at its end; the word alone carries the polarity. Phonemes are ARPAbet; a `1` marks
the stressed vowel.
"""

WORDS = {
    "good": {
        "great": "G R EY1 T", "lovely": "L AH1 V L IY", "wonderful": "W AH1 N D ER F UH L", "fine": "F AY1 N",
        "perfect": "P ER1 F EH K T", "sweet": "S W IY1 T",
    },
    "bad": {
        "awful": "AO1 F UH L", "broken": "B R OW1 K AH N", "horrible": "HH AO1 R IH B UH L", "ruined": "R UW1 IH N D",
        "nasty": "N AE1 S T IY", "useless": "Y UW1 S L EH S",
    },
    "plain": {
        "open": "OW1 P AH N", "yellow": "Y EH1 L OW", "outside": "AW T S AY1 D", "wooden": "W UH1 D AH N",
        "upstairs": "AH P S T EH1 R Z", "round": "R AW1 N D",
    },
}
POLARITY = {word: polarity for polarity, words in WORDS.items() for word in words}

SMALL = {
    "it": "IH1 T", "is": "IH Z", "that": "DH AE1 T", "this": "DH IH1 S", "the": "DH AH", "my": "M AY1", "food": "F UW1 D",
    "box": "B AO1 K S", "room": "R UW1 M", "they": "DH EY", "say": "S EY1", "door": "D AO1 R", "now": "N AW1",
    "we": "W IY", "see": "S IY1", "all": "AO1 L", "here": "HH IH1 R", "so": "S OW", "look": "L UH1 K",
}

CARRIERS = (
    "it is {}", "that is {}", "this is {}", "the food is {}", "the box is {}", "my room is {}", "they say it is {}",
    "now it is {}", "look it is {}", "here it is all {}", "my food is {}", "so it is {}", "this box is {}", "that room is {}",
    "look this is {}", "here it is {}", "they say {}", "my box is all {}",
)
# Kept for clips whose wording is held out: other carriers, and another order.
OTHER = ("the door is {}", "we see it is {}")
TURNED = ("{} it is", "{} this is now")


def phonemes(text):
    """`text` to a list of words, each a list of phonemes. Unknown words are an error that names them."""
    out = []
    for word in text.lower().replace("{}", "").split():
        polarity = POLARITY.get(word)
        spelled = WORDS[polarity][word] if polarity else SMALL.get(word)
        if spelled is None:
            raise KeyError(f"no pronunciation for {word!r}")
        out.append(spelled.split())
    return out


def polarity(text):
    """That of the one word which has one."""
    return next(POLARITY[word] for word in text.split() if word in POLARITY)


def sentence(rng, polarity, pool=CARRIERS, longest=99):
    """A random sentence of a polarity, its carrier one of `pool`."""
    fitting = [c for c in pool if len(c.split()) <= longest] or [min(pool, key=len)]
    words = sorted(WORDS[polarity])
    return fitting[rng.integers(len(fitting))].format(words[rng.integers(len(words))])
