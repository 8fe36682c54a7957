"""A prompt as tokens, and which of its tokens are counted.

Without a target the last prompt tokens are counted (Expert-Aware Refusal Steering, arXiv 2606.04160). With
one (SteerMoE, arXiv 2509.09660, section 3) the tokens of the target are: of a reply, which is put behind
the prompt as the model would have to write it, or of a part of the prompt itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steer.artifacts.prompts import Prompt
from steer.errors import SteerError
from steer.models.loading import LoadedModel


@dataclass(frozen=True)
class Marked:
    """Token ids with two marks.

    Attributes:
        ids: the prompt in the model's chat template, and the reply if there is one.
        prompt: number of prompt tokens; the reply follows.
        counted: first counted token, and the one after the last.
    """

    ids: tuple[int, ...]
    prompt: int
    counted: tuple[int, int]

    @property
    def tail(self) -> int:
        """Tokens behind the prompt."""
        return len(self.ids) - self.prompt

    @property
    def tokens(self) -> int:
        """How many tokens are counted."""
        return self.counted[1] - self.counted[0]


def mark(loaded: LoadedModel, prompt: Prompt, positions: int) -> Marked:
    """Tokens of a prompt of a set, with the tokens to count: its target, or the last `positions`.

    Of a reply that stands `beside` another only as many of its first tokens are counted as both have.

    Raises:
        SteerError: the target is not to be found among the tokens (the prompt and its pair are named).
    """
    ids = loaded.encode(prompt.text, prompt.before)
    if not prompt.target:
        return Marked(tuple(ids), len(ids), (max(0, len(ids) - positions), len(ids)))
    if prompt.target_in == "prompt":
        return Marked(tuple(ids), len(ids), _inside(loaded, prompt, ids))
    reply = loaded.tokenizer.encode(prompt.target, add_special_tokens=False)
    said = loaded.tokenizer.decode(reply, clean_up_tokenization_spaces=False)
    if said.strip() != prompt.target.strip():
        raise _lost(prompt, "its tokens read as another text, so the target can't be found in them")
    beside = loaded.tokenizer.encode(prompt.beside, add_special_tokens=False) if prompt.beside else reply
    return Marked((*ids, *reply), len(ids), (len(ids), len(ids) + min(len(reply), len(beside))))


def _inside(loaded: LoadedModel, prompt: Prompt, ids: Sequence[int]) -> tuple[int, int]:
    """Tokens of the last place where the target stands in the prompt, from their characters."""
    text = loaded.render(prompt.text, prompt.before)
    encoded = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoded["input_ids"]) != list(ids):
        raise _lost(prompt, "the tokenizer doesn't tell which characters its tokens stand for")
    start = text.rfind(prompt.target)
    end = start + len(prompt.target)
    found = [at for at, (left, right) in enumerate(encoded["offset_mapping"]) if left < end and right > start]
    if start < 0 or not found:
        raise _lost(prompt, "its target does not stand in the prompt")
    left, right = encoded["offset_mapping"][found[0]][0], encoded["offset_mapping"][found[-1]][1]
    if text[left:right].strip() != prompt.target.strip():
        raise _lost(prompt, "a token reaches over the ends of its target")
    return found[0], found[-1] + 1


def _lost(prompt: Prompt, cause: str) -> SteerError:
    return SteerError(
        f"pair `{prompt.pair}`, prompt `{prompt.id}`", cause, "mend the pair's `target`, or remove the pair"
    )
