"""Which donor is a prompt's pair, for arms that swap in what was recorded of other prompts."""

from collections.abc import Sequence
from dataclasses import replace

from steer.errors import SteerError
from steer.models.interventions import Arm, Donors
from steer.overlap import duplicates

NGRAM = 5
"""Characters of the pieces that wordings are compared by, as where prompts say the same."""


def paired(donors: Donors, texts: Sequence[str]) -> list[int]:
    """The donor of every prompt, by its number among the donors.

    By `topic` it is the one with the largest Jaccard similarity of character n-grams; a prompt that has
    nothing in common with any gets the one of its number. Where that is the prompt itself, the next one is
    that is another.

    Raises:
        SteerError: every donor is the prompt itself.
    """
    found = [number % len(donors.ids) for number in range(len(texts))]
    if donors.pairing == "topic":
        for text, nearest, _ in duplicates(texts, donors.texts, NGRAM, 0.0):
            found[text] = nearest
    return [_another(donors, donor, text) for donor, text in zip(found, texts, strict=True)]


def _another(donors: Donors, first: int, text: str) -> int:
    """The first donor from `first` on with another text: a prompt's own activations would change nothing."""
    count = len(donors.ids)
    for donor in ((first + step) % count for step in range(count)):
        if donors.texts[donor] != text:
            return donor
    cause = "has no donor but itself, and its own activations would change nothing"
    raise SteerError(
        f"prompt `{donors.ids[first]}`", cause, "swap from a set or a `split` with other prompts"
    )


def with_donor(arm: Arm, donor: int) -> Arm:
    """The arm as it is for a prompt that has a donor: with that one's activations alone."""
    swapping = {one.tensor for one in (*arm.operations, *arm.twin) if one.operation == "swap"}
    tensors = {
        name: tensor[donor].contiguous() if name in swapping else tensor
        for name, tensor in arm.tensors.items()
    }
    return replace(arm, tensors=tensors, donors=None)


def with_donors(arm: Arm, own: Sequence[int]) -> list[Arm]:
    """The arm as it is for every prompt, given the donor of each; prompts of one donor share an object."""
    made = {donor: with_donor(arm, donor) for donor in dict.fromkeys(own)}
    return [made[donor] for donor in own]
