"""A synthetic world of speaking faces with ground truth down to each cue.

A clip shows one parametric face that speaks one short sentence. Its label follows from face, voice and words by the
published rule of `rule.py`; every cue that was drawn or spoken is logged with onset, offset and whether it can be observed.

    rule      the label as a function of what face, voice and words show
    lexicon   the sentences and how they are pronounced
    voice     a formant synthesiser with rule prosody
    room      rooms, noise, gain
    face      action units to pictures
    avi       clips as ordinary files
    clip      one clip: drawn from a seed, rendered, its truth written down
    demo      the demo clip
    sheet     a picture of many clips to look at

Nothing here says anything about real people.
"""

VERSION = 2
