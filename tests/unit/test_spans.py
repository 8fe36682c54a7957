from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from steer.activations import dump
from steer.artifacts.prompts import Prompt
from steer.config import ActivationSettings, ModelSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from steer.models.spans import mark
from tests.activation_sets import REFUSAL_TOKENS, facts_of
from tests.oracles import decoder
from tests.tiny import EXPERTS, MOE_FAMILIES

Tiny = Callable[[str], LoadedModel]
P = 5
MODEL = ModelSettings(path="unused", batch_size=3)
REPLIES = ("No.", "I can't help with that, sorry.", "Sure: 1. Begin.\n2. Go on.", "Yes", "naïve 中")


def reply_pairs() -> list[Prompt]:
    texts = ("Short", "A prompt that is quite a bit longer", "x" * 30, "Mid length", "Five")
    return [
        Prompt(f"p{n}", text, "harmful", "train", pair=f"q{n}", target=reply)
        for n, (text, reply) in enumerate(zip(texts, REPLIES, strict=True))
    ]


def part_pairs() -> list[Prompt]:
    texts = (
        "Question: who?",
        "Document: a Question: b. Question: who?",
        "Long document. " * 3 + "Question: who?",
    )
    return [
        Prompt(f"p{n}", text, "harmful", "train", pair=f"q{n}", target="Question: who?", target_in="prompt")
        for n, text in enumerate(texts)
    ]


def _dumped(loaded: LoadedModel, prompts: list[Prompt], out: Path) -> dict[str, np.ndarray]:
    dump(loaded, facts_of(loaded), prompts, out, MODEL, ActivationSettings())
    with h5py.File(out) as file:
        assert file.attrs["span"] == "target"
        return {name: dataset[...] for name, dataset in file.items()}


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_a_reply_is_counted_token_by_token_as_a_decoder_by_hand_routes_it(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    loaded = tiny(family)
    pairs = reply_pairs()
    found = _dumped(loaded, pairs, tmp_path / "a.h5")
    for row, pair in enumerate(pairs):
        prompt = loaded.encode(pair.text)
        reply = loaded.tokenizer.encode(pair.target, add_special_tokens=False)
        trace = decoder.run(loaded.model, [*prompt, *reply])
        assert found["token_count"][row] == len(reply)
        assert found["n_tokens"][row] == len(prompt)
        for layer, chosen in enumerate(trace.chosen):
            counted = Counter(expert for token in chosen[len(prompt) :] for expert in token)
            strongest = Counter(int(token[0]) for token in chosen[len(prompt) :])
            assert found["expert_count"][row, layer].tolist() == [counted[e] for e in range(EXPERTS)]
            assert found["strongest_count"][row, layer].tolist() == [strongest[e] for e in range(EXPERTS)]


def test_the_last_positions_are_those_of_the_prompt_ahead_of_its_reply(
    any_family: str, tiny: Tiny, tmp_path: Path
) -> None:
    loaded = tiny(any_family)
    pairs = reply_pairs()
    found = _dumped(loaded, pairs, tmp_path / "a.h5")
    for row, pair in enumerate(pairs):
        prompt = loaded.encode(pair.text)
        trace = decoder.run(loaded.model, prompt)
        assert _close(found["residual"][row], np.array([part[-P:] for part in trace.residual]))
        assert _close(found["mlp_out"][row], np.array([part[-P:] for part in trace.mlp]))
        if loaded.sites.moe_layers:
            index = np.array([part[-P:] for part in trace.chosen])
            np.testing.assert_array_equal(found["expert_index"][row], index)
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([prompt])).logits[0, -1].double()
        p = torch.softmax(logits, dim=-1)[list(REFUSAL_TOKENS)].sum()
        assert found["refusal_score"][row] == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-4)


def test_a_part_of_the_prompt_is_counted_where_it_stands_last(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    pairs = part_pairs()
    found = _dumped(loaded, pairs, tmp_path / "a.h5")
    for row, pair in enumerate(pairs):
        ids = loaded.encode(pair.text)
        marked = mark(loaded, pair, P)
        assert loaded.tokenizer.decode(ids[slice(*marked.counted)]) == "Question: who?"
        assert loaded.tokenizer.decode(ids[marked.counted[1] :]).startswith("<|im_end|>")
        trace = decoder.run(loaded.model, ids)
        for layer, chosen in enumerate(trace.chosen):
            counted = Counter(expert for token in chosen[slice(*marked.counted)] for expert in token)
            assert found["expert_count"][row, layer].tolist() == [counted[e] for e in range(EXPERTS)]


def test_a_target_that_is_not_in_the_tokens_is_an_error_that_names_the_pair(tiny: Tiny) -> None:
    loaded = tiny("olmoe")
    lost = replace(part_pairs()[0], target="Question: when?")
    with pytest.raises(SteerError, match="pair `q0`, prompt `p0`: its target does not stand in the prompt"):
        mark(loaded, lost, P)

    class Lossy:
        """A tokenizer that writes everything small, as uncased ones do."""

        def encode(self, text: str, **_how: bool) -> list[int]:
            return list(loaded.tokenizer.encode(text.lower(), add_special_tokens=False))

        def __getattr__(self, name: str) -> object:
            return getattr(loaded.tokenizer, name)

    with pytest.raises(SteerError, match="pair `q1`, prompt `p1`: its tokens read as another text"):
        mark(replace(loaded, tokenizer=Lossy()), reply_pairs()[1], P)


def test_a_token_that_reaches_over_the_end_of_a_target_is_an_error(tiny: Tiny) -> None:
    loaded = tiny("olmoe")

    class Coarse:
        """A tokenizer that tells of each token the characters of the next one as well."""

        def __call__(self, text: str, **how: bool) -> dict[str, object]:
            encoded = dict(loaded.tokenizer(text, **how))
            offsets = encoded["offset_mapping"]
            return {
                **encoded,
                "offset_mapping": [(left, min(right + 1, len(text))) for left, right in offsets],
            }

        def __getattr__(self, name: str) -> object:
            return getattr(loaded.tokenizer, name)

    with pytest.raises(SteerError, match="a token reaches over the ends of its target"):
        mark(replace(loaded, tokenizer=Coarse()), part_pairs()[0], P)


def test_a_set_with_and_without_targets_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    mixed = [*reply_pairs(), Prompt("bare", "Hello there", "harmful", "train")]
    with pytest.raises(SteerError, match="prompt `bare` has no target, others have one"):
        dump(loaded, facts_of(loaded), mixed, tmp_path / "a.h5", MODEL, ActivationSettings())


def test_a_reply_counts_towards_the_longest_prompt_that_is_accepted(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    pair = replace(reply_pairs()[0], target="y" * 60)
    short = MODEL.model_copy(update={"max_prompt_tokens": len(loaded.encode(pair.text)) + 59})
    with pytest.raises(SteerError, match=r"prompt `p0`: has .* tokens, more than"):
        dump(loaded, facts_of(loaded), [pair], tmp_path / "a.h5", short, ActivationSettings())
