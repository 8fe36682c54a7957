"""The embedded model's tokenizer: byte-level BPE over the grammar's words, with a chat template."""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from steer.grammar import Grammar
from steer.training.words import asked_words, wide_words

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def chat_text(prompt: str, system: str | None = None) -> str:
    """The rendered prompt up to the reply; equal to what the chat template makes of it."""
    turns = [("system", system)] if system is not None else []
    turns.append(("user", prompt))
    body = "".join(f"{START}{role}\n{content}{END}\n" for role, content in turns)
    return f"{body}{START}assistant\n"


def build_tokenizer(grammar: Grammar, merges: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which every word of a prompt or reply of the grammar is one token.

    Other text falls into pieces of at most `merges` kinds, learned from all words, or into bytes.
    """
    return word_tokenizer(_known_words(grammar), [f" {word}" for word in wide_words(grammar)], merges)


def word_tokenizer(known: Sequence[str], others: Sequence[str], merges: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which every `known` word is one token, and other text falls into pieces or bytes.

    Pieces are learned from known and `others` alike. Padding stands on the left, as generation needs it.
    """
    backend = Tokenizer(_word_model(known, others, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _word_model(known: Sequence[str], others: Sequence[str], merges: int) -> models.BPE:
    """Byte-pair pieces, then whole words, which are taken before any merge is tried."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = splitter
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 3 + merges,
        min_frequency=1,
        special_tokens=[PAD, END, START],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    pieces.train_from_iterator([*known, *others], trainer)
    learned = json.loads(pieces.to_str())["model"]
    vocabulary: dict[str, int] = learned["vocab"]
    for word in known:
        for token, _ in splitter.pre_tokenize_str(word):
            vocabulary.setdefault(token, len(vocabulary))
    return models.BPE(
        vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]], ignore_merges=True
    )


def _known_words(grammar: Grammar) -> list[str]:
    """Each word of a prompt or reply as it stands there, with its blank ahead unless it comes first."""
    tables = grammar.tables
    replies = tables.replies
    sentences = [*(f.text for f in tables.frames), *(q.text for q in tables.questions), *tables.systems]
    sentences += [*replies.openers.values(), *replies.refusals, *replies.steps, replies.general]
    spaced = {f" {word}" for sentence in sentences for word in sentence.split()}
    first = {sentence.split()[0] for sentence in sentences}
    asked = {f" {word}" for word in asked_words(grammar)}
    return sorted(spaced | first | asked | {*ROLES})
