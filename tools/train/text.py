"""Every text of the recipe: instructions, prompts, what a cold start teaches to say, and the corpus of the tokenizer."""

import re

import claims
import rewards
from world import rule

SYSTEM = "You are a helpful assistant."
_QUESTION = ("As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the most obvious to "
             "you?  ")
REASON = _QUESTION + "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
LABEL = _QUESTION + "Output the final emotion in <answer> </answer> tags."
DESCRIBE = "Describe what the characters show and how they speak."
INSTRUCTIONS = {"reason": REASON, "label": LABEL, "describe": DESCRIBE}


def prompt(instruction, video=True, audio=True):
    """The conversation up to the assistant's turn, cut at the places of the modalities."""
    if not video and not audio:
        raise ValueError("a prompt needs video or audio")
    out = [f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"]
    for there, place, opened, closed in ((video, "video", "<vi_start>", "<vi_end>\n"), (audio, "audio", "<au_start>", "<au_end>\n")):
        if there:
            out[-1] += opened
            out += [place, closed]
    out[-1] += f"{instruction}<|im_end|>\n<|im_start|>assistant\n"
    return out


def reason(thought, label):
    """A thought and its answer. The blank keeps the tag's tokens apart from the text's, as a constrained decoder feeds them."""
    return f"<think> {thought}</think>\n<answer>{label}</answer>"


def faithful(cues, label, dice=None, unsaid=0.0):
    """What a faithful reason says; with `dice` each claim is left out with the chance `unsaid`."""
    return reason(f"{claims.write(cues, dice, unsaid)} Together {label}".strip(), label)


def target(kind, cues, label, thought=None, dice=None, unsaid=0.0):
    """What the model is taught to answer to an instruction of a kind; empty where nobody knows."""
    if kind == "label":
        return f"<answer>{label}</answer>"
    if cues is None:
        return reason(thought.strip(), label) if kind == "reason" and thought else ""
    return faithful(cues, label, dice, unsaid) if kind == "reason" else claims.write(cues)


def corpus():
    """Texts of the tokenizer: each with the weight of its use, and some prose so that no common letter pair is strange."""
    everything = [f"{value} {cue}" for cue, (_, values) in claims.CUES.items() for value in values]
    labels = (*rule.LABELS, rule.UNKNOWN, "contemptuous", "anxious", "helpless", "disappointed", "calm", *rewards.CANONICAL,
              *rewards.CANONICAL.values())
    for instruction in INSTRUCTIONS.values():
        yield from ["".join(p for p in prompt(instruction) if p not in ("video", "audio"))] * 20
    for claim in everything:
        yield from [f"I see {claim}, {claim}. I hear {claim}, {claim}. Together"] * 20
    for label in labels:
        yield from [f" Together {label}</think>\n<answer>{label}</answer>", f"<think> I see {label}"] * 20
    yield "The person in the video speaks with a quiet voice; the eyes are open, and the mouth moves while the head turns away."


def instruction_words():
    """Lower-case words of the instructions, for BERT's word list."""
    return sorted(set(re.findall(r"[a-z]+", " ".join(INSTRUCTIONS.values()).lower())))
