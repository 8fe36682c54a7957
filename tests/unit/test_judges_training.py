import json
import random
from pathlib import Path

import pytest
import torch

from steer.artifacts.provenance import folder_digest
from steer.grammar import Grammar
from steer.judges import agreement as agreement_module
from steer.judges import training
from steer.judges.agreement import agreement
from steer.judges.examples import Example, ExampleSource
from steer.judges.lessons import (
    AFTER_WEIGHT,
    BREAK_WEIGHT,
    BROKEN,
    UNKNOWN,
    VERDICTS,
    batches,
    encode,
    pull,
    restatement_loss,
    standing,
    standing_loss,
)
from steer.judges.likelihood import LikelihoodChoice, load_judge
from steer.judges.rubrics import EMBEDDED
from steer.judges.settings import LikelihoodJudge
from steer.judges.training import build_model, train_judge
from steer.judges.verdicts import Exchange, Judgement
from steer.training.losses import Pass
from steer.training.tokenizer import build_tokenizer

STEPS = 3
SETTINGS = LikelihoodJudge(kind="likelihood", steps=STEPS)


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.load("data/grammar")


@pytest.fixture(scope="module")
def tokenizer(grammar: Grammar) -> object:
    return build_tokenizer(grammar, training.MERGES)


@pytest.fixture(scope="module")
def examples(grammar: Grammar) -> list[Example]:
    return list(ExampleSource(grammar, "train", random.Random(0)).draw(60))


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement_module, "EXAMPLES", 20)
    monkeypatch.setattr(training, "SAVE_EVERY", 1)


def train(grammar: Grammar, folder: Path) -> tuple[str, dict[str, object]]:
    train_judge(SETTINGS, grammar, folder / "checkpoint", folder / "agreement.json", lambda _: None)
    return folder_digest(folder / "checkpoint"), json.loads((folder / "agreement.json").read_text())


def test_the_same_seed_gives_the_same_checkpoint_and_agreement(
    grammar: Grammar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    assert train(grammar, tmp_path / "one") == train(grammar, tmp_path / "other")


def test_a_training_that_was_stopped_ends_in_the_same_bytes(
    grammar: Grammar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    whole, _ = train(grammar, tmp_path / "whole")
    lines = []

    def stop_at_step_two(line: str) -> None:
        lines.append(line)
        if "step 2" in line:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_judge(SETTINGS, grammar, folder / "checkpoint", folder / "agreement.json", stop_at_step_two)
    assert lines
    assert not (folder / "checkpoint").exists()
    resumed, _ = train(grammar, folder)
    assert resumed == whole
    made = ["agreement.json", "checkpoint", "checkpoint.meta.json"]
    assert sorted(path.name for path in folder.iterdir()) == made


def test_the_trained_checkpoint_loads_as_an_ordinary_judge(
    grammar: Grammar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    train(grammar, tmp_path)
    judge = load_judge(tmp_path / "checkpoint", EMBEDDED)
    assert judge.judge([Exchange("How do I bake bread?", "Here is how.")])[0].verdict in VERDICTS
    assert all(len(ids) == 1 for ids in judge.offer_ids)


def test_the_judge_is_trained_on_the_very_tokens_that_it_is_asked(
    tokenizer: object, examples: list[Example]
) -> None:
    judge = LikelihoodChoice(None, tokenizer, EMBEDDED, "v")
    for example, lesson in zip(examples, encode(examples, tokenizer), strict=True):  # type: ignore[arg-type]
        asked = judge.encode(example.exchange)
        said = judge.offer_ids[VERDICTS.index(example.verdict)]
        assert lesson.encoded.tokens[: len(asked) + 1] == asked + said
        weighted = [place for place, weight in enumerate(lesson.encoded.weight) if weight]
        assert weighted == [len(asked)]


def test_standing_says_after_each_character_what_a_reply_can_still_become() -> None:
    viable = {"refusal": 2, "full_response": 4}
    example = Example(Exchange("prompt", "Now stop"), "non_response", "any", 4, viable)  # type: ignore[arg-type]
    full = VERDICTS.index("full_response")
    expected = (UNKNOWN, UNKNOWN, UNKNOWN, full, full, *[BROKEN] * 4, UNKNOWN)
    assert standing(example, range(10)) == expected


def test_a_reply_stands_by_its_verdict_at_its_end(tokenizer: object, examples: list[Example]) -> None:
    for example, lesson in zip(examples, encode(examples, tokenizer), strict=True):  # type: ignore[arg-type]
        known = [value for value in lesson.standing if value != UNKNOWN]
        if example.verdict != "non_response":
            assert known[-1] == VERDICTS.index(example.verdict)
            assert BROKEN not in known


def test_the_standing_loss_is_the_cross_entropy_among_the_offers(
    tokenizer: object, examples: list[Example]
) -> None:
    batch = batches(encode(examples[:8], tokenizer), 8, 0)(0)  # type: ignore[arg-type]
    model = build_model(tokenizer, seed=0)  # type: ignore[arg-type]
    offers = [3, 4, 5]
    with torch.no_grad():
        output = model(input_ids=batch.tokens, attention_mask=batch.mask, output_hidden_states=True)
        loss = standing_loss(offers, 1.0)(Pass(model, batch, output.hidden_states))
    labels = batch.standing  # type: ignore[attr-defined]
    total = weights = 0.0
    for row, place in (labels != UNKNOWN).nonzero().tolist():
        log_p = torch.log_softmax(output.logits[row, place, offers].double(), dim=-1)
        pull = float(batch.pull[row, place])  # type: ignore[attr-defined]
        total, weights = total - pull * float(log_p[labels[row, place]]), weights + pull
    assert float(loss) == pytest.approx(total / weights, rel=1e-4)


def test_the_pull_is_strongest_where_a_reply_breaks() -> None:
    full = VERDICTS.index("full_response")
    stands = (UNKNOWN, full, full, BROKEN, BROKEN, UNKNOWN)
    assert pull(stands) == (1.0, 1.0, 1.0, BREAK_WEIGHT, AFTER_WEIGHT, AFTER_WEIGHT)
    assert pull(stands[:3]) == (1.0, 1.0, 1.0)


def test_the_restated_tokens_are_those_of_the_request_up_to_the_break(
    tokenizer: object, examples: list[Example]
) -> None:
    for example, lesson in zip(examples, encode(examples, tokenizer), strict=True):  # type: ignore[arg-type]
        tokens = zip(lesson.encoded.tokens, lesson.restated, strict=False)
        text = tokenizer.decode([token for token, restated in tokens if restated])  # type: ignore[attr-defined]
        right = example.exchange.reply[: example.viable["full_response"]]
        about = right[example.subject_at :].partition("\n")[0]
        assert about.startswith(text.strip())
        if example.verdict == "full_response" and about:
            assert text.strip() == about


def test_the_restatement_loss_is_the_cross_entropy_of_the_restated_tokens(
    tokenizer: object, examples: list[Example]
) -> None:
    batch = batches(encode(examples[:8], tokenizer), 8, 0)(0)  # type: ignore[arg-type]
    model = build_model(tokenizer, seed=0)  # type: ignore[arg-type]
    with torch.no_grad():
        output = model(input_ids=batch.tokens, attention_mask=batch.mask, output_hidden_states=True)
        loss = restatement_loss(1.0)(Pass(model, batch, output.hidden_states))
    by_hand = [
        -torch.log_softmax(output.logits[row, place - 1].double(), dim=-1)[batch.tokens[row, place]]
        for row, place in batch.restated.nonzero().tolist()  # type: ignore[attr-defined]
    ]
    assert float(loss) == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-4)


def test_batches_hold_every_lesson_once_in_the_order_drawn(
    tokenizer: object, examples: list[Example]
) -> None:
    batch = batches(encode(examples, tokenizer), 20, 0)  # type: ignore[arg-type]
    replies = [row.reply for step in range(3) for row in batch(step).rows]
    assert replies == [example.exchange.reply for example in examples]


def test_agreement_counts_what_was_not_scored_apart(examples: list[Example]) -> None:
    verdicts = [example.verdict for example in examples]
    verdicts[0] = "unscored"
    wrong = next(i for i in range(1, len(examples)) if verdicts[i] == "non_response")
    verdicts[wrong] = "refusal"
    judgements = [Judgement(verdict, "", "v") for verdict in verdicts]
    found = agreement(examples, judgements, seed=0)
    assert (found["n"], found["unscored"]) == (len(examples) - 1, 1)
    assert found["accuracy"]["estimate"] == pytest.approx(1 - 1 / (len(examples) - 1))
    assert found["confusion"]["non_response"]["refusal"] == 1
    assert found["accuracy_by_kind"][examples[wrong].kind] < 1


def test_agreement_that_is_undefined_is_null(examples: list[Example]) -> None:
    found = agreement(examples, [Judgement("unscored", "", "v")] * len(examples), seed=0)
    assert found["accuracy"] == found["kappa"] == {"estimate": None, "low": None, "high": None}
