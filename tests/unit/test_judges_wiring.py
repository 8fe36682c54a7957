import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from steer.grammar import Grammar
from steer.judges.copying import LONGEST, SHORTEST, copying_batches
from steer.judges.likelihood import LikelihoodChoice
from steer.judges.rubrics import EMBEDDED
from steer.judges.training import MERGES, build_model
from steer.judges.verdicts import Exchange
from steer.judges.wiring import ALIKE_LAYERS, COPYING_LAYERS, LOOKING_BACK, look_back
from steer.training.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load("data/grammar")


@pytest.fixture(scope="module")
def tokenizer(grammar: Grammar) -> object:
    return build_tokenizer(grammar, MERGES)


@pytest.fixture(scope="module")
def model(tokenizer: object) -> LlamaForCausalLM:
    model = build_model(tokenizer, seed=0)  # type: ignore[arg-type]
    model.set_attn_implementation("eager")
    return model.eval()


def turned(pairs: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    """Rotary embedding, pair by pair as complex numbers."""
    size = len(pairs)
    turn = theta ** (-2 * torch.arange(size // 2, dtype=torch.float64) / size)
    numbers = torch.complex(pairs[: size // 2].double(), pairs[size // 2 :].double())
    return numbers * torch.exp(1j * turn * position)


def test_the_product_of_query_and_key_is_largest_one_token_back() -> None:
    query, key = look_back(24, 100.0)
    at = 60
    products = [
        float((turned(query, at, 100.0) * turned(key, before, 100.0).conj()).real.sum())
        for before in range(at + 1)
    ]
    best = max(range(at + 1), key=products.__getitem__)
    assert best == at - 1
    assert products[best] == pytest.approx(float(key.square().sum()))


@torch.no_grad()
def test_the_untrained_heads_of_the_first_layer_look_one_token_back(
    model: LlamaForCausalLM, tokenizer: object
) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, len(tokenizer), (1, 40), generator=generator)  # type: ignore[arg-type]
    first = model(input_ids=tokens, output_attentions=True).attentions[0][0]
    looked_at = first[:, 1:].argmax(dim=-1)
    assert (looked_at[:LOOKING_BACK] == torch.arange(39)).all()
    assert (looked_at[LOOKING_BACK:] != torch.arange(39)).float().mean() > 0.5


def test_later_layers_search_what_is_alike_and_copy_it(model: LlamaForCausalLM) -> None:
    for at, layer in enumerate(model.model.layers):
        query, key, value, output = (
            part for part in layer.self_attn.children() if isinstance(part, nn.Linear)
        )
        assert torch.equal(query.weight, key.weight) == (at in ALIKE_LAYERS)
        assert torch.equal(output.weight, value.weight.T) == (at in COPYING_LAYERS)


def test_the_parts_that_are_wired_are_query_key_value_and_output(model: LlamaForCausalLM) -> None:
    attention = model.model.layers[1].self_attn
    assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
    assert torch.equal(attention.o_proj.weight, attention.v_proj.weight.T)


def test_a_copying_lesson_is_a_question_whose_reply_restates_it(grammar: Grammar, tokenizer: object) -> None:
    batch = copying_batches(tokenizer, grammar.tables.replies, 4, seed=0)  # type: ignore[arg-type]
    for step in range(5):
        found = batch(step)
        count = int((found.weight[0] > 0).sum())
        assert SHORTEST <= count <= LONGEST
        restated = found.tokens[:, -count:]
        start = found.tokens[0].tolist().index(int(restated[0, 0]))
        assert torch.equal(found.tokens[:, start : start + count], restated)
        assert (found.weight[:, -count:] == 1).all()
        assert not found.weight[:, :-count].any()


def test_a_copying_lesson_stands_in_the_judges_own_question(grammar: Grammar, tokenizer: object) -> None:
    judge = LikelihoodChoice(None, tokenizer, EMBEDDED, "v")
    found = copying_batches(tokenizer, grammar.tables.replies, 2, seed=0)(0)  # type: ignore[arg-type]
    asked = judge.encode(Exchange("x", "y"))
    start = asked.index(tokenizer.encode("x")[0])  # type: ignore[attr-defined]
    assert found.tokens[0, :start].tolist() == asked[:start]
    between = asked[start + 1 : asked.index(tokenizer.encode("y")[0])]  # type: ignore[attr-defined]
    count = int((found.weight[0] > 0).sum())
    assert found.tokens[0, start + count : start + count + len(between)].tolist() == between


def test_copying_lessons_depend_on_seed_and_step_alone(grammar: Grammar, tokenizer: object) -> None:
    one, same, other = (
        copying_batches(tokenizer, grammar.tables.replies, 2, seed)  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one(3).tokens, same(3).tokens)
    assert one(3).tokens.tolist() != other(3).tokens.tolist()
    assert one(3).tokens.tolist() != one(4).tokens.tolist()
