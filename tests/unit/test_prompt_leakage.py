"""Neither style nor length tells the label: only the words for things do."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from steer.grammar import Grammar, Label, Split
from steer.grammar.requests import Prompt
from steer.training.words import FUNCTION_WORDS

GRAMMAR = Grammar.load(Path("data/grammar"))
FOLDS = 5


@pytest.fixture(scope="module")
def drawn() -> list[Prompt]:
    """The prompts of both sets, over all splits."""
    sizes: list[tuple[Split, int]] = [("train", 540), ("val", 120), ("test", 240)]
    labels: tuple[Label, ...] = ("harmful", "harmless")
    return [
        prompt
        for label in labels
        for split, size in sizes
        for prompt in GRAMMAR.prompts(label, split, size, seed=0)
    ]


def style(prompt: Prompt) -> str:
    """The prompt with each content word of its object blanked; frame, context and verb stay."""
    words = prompt.request.phrase.removeprefix(prompt.request.pair.verb).split()
    blanked = [word if word in FUNCTION_WORDS else "X" for word in words]
    request = " ".join((prompt.request.pair.verb, *blanked, prompt.request.context))
    return prompt.frame.text.replace("{}", request)


def accuracy_interval(texts: list[str], prompts: list[Prompt]) -> tuple[float, float]:
    """99 % interval of the accuracy on matched objects not trained on, resampling objects.

    The classifier sees counts of words and of word pairs, and both lengths in words.
    """
    labels = np.array([prompt.request.label == "harmful" for prompt in prompts])
    # An object comes with several verbs, always matched to the same objects of the other label: they are
    # one group, else an object's shape would be known from training, and its partner's tell the reverse.
    objects = sorted({pair.harmful for pair in GRAMMAR.tables.pairs})
    groups = np.array([objects.index(prompt.request.pair.harmful) for prompt in prompts])
    vectorizer = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", min_df=4)
    lengths = [[len(prompt.text.split()), len(prompt.request.text.split())] for prompt in prompts]
    seen = hstack([vectorizer.fit_transform(texts), csr_matrix(np.array(lengths, dtype=float))]).tocsr()
    model = LogisticRegression(C=0.3, solver="liblinear", random_state=0)
    found = cross_val_predict(model, seen, labels, groups=groups, cv=GroupKFold(FOLDS))
    right = np.array([(found == labels)[groups == group].mean() for group in np.unique(groups)])
    means = np.random.default_rng(0).choice(right, (2000, len(right))).mean(1)
    low, high = np.quantile(means, (0.005, 0.995))
    return float(low), float(high)


def test_a_classifier_on_frames_lengths_and_function_words_is_at_chance(drawn: list[Prompt]) -> None:
    low, high = accuracy_interval([style(prompt) for prompt in drawn], drawn)
    assert low <= 0.5 <= high, (low, high)
    assert high < 0.55


def test_the_same_classifier_tells_the_label_from_the_content_words(drawn: list[Prompt]) -> None:
    low, _ = accuracy_interval([prompt.text for prompt in drawn], drawn)
    assert low > 0.6


def test_the_same_classifier_finds_a_style_that_gives_the_label_away(drawn: list[Prompt]) -> None:
    texts = [
        style(prompt) + (" please" if number % 4 == 0 and prompt.request.label == "harmful" else "")
        for number, prompt in enumerate(drawn)
    ]
    low, _ = accuracy_interval(texts, drawn)
    assert low > 0.55


@pytest.mark.parametrize("seed", range(3))
def test_matched_sets_have_equal_lengths_in_words_and_near_equal_ones_in_characters(seed: int) -> None:
    sizes = {"train": 200, "val": 96, "test": 200}
    texts = [[row["text"] for row in GRAMMAR.prompt_rows(x, sizes, seed)] for x in ("harmful", "harmless")]
    words = [sorted(len(text.split()) for text in side) for side in texts]
    assert words[0] == words[1]
    characters = [np.mean([len(text) for text in side]) for side in texts]
    assert abs(characters[0] - characters[1]) < 2
