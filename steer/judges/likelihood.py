"""A causal language model as judge: it chooses among offered verdicts by their likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steer.artifacts.provenance import code_digest, digest, folder_digest
from steer.errors import SteerError
from steer.judges.offers import offer_log_likelihoods
from steer.judges.rubrics import Rubric, headings
from steer.judges.untrusted import MARK, Neutraliser, template_delimiters
from steer.judges.verdicts import SCORE_DIGITS, UNSCORED, Exchange, Judgement, choose, scored
from steer.models.loading import check_weights, load_tokenizer, load_weights


@dataclass(frozen=True)
class LikelihoodChoice:
    """Judge by the likeliest offer of a rubric.

    Attributes:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template unless the rubric is `whole`.
        rubric: the question and the offers.
        version: digest of rubric, weights, arithmetic and code.
        batch_size: exchanges per forward pass.
        max_tokens: longest conversation judged, template and rubric included.
    """

    model: Any
    tokenizer: Any
    rubric: Rubric
    version: str
    batch_size: int = 32
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        for offer in self.offer_ids:
            if sum(other[: len(offer)] == offer for other in self.offer_ids) > 1:
                raise ValueError(
                    "the tokens of one offer begin another's, which could then never be likelier"
                )

    @cached_property
    def offer_ids(self) -> list[list[int]]:
        """Token ids of each offer, as the beginning of an assistant turn, or of what follows the question."""
        if not self.rubric.whole:
            encode = self.tokenizer.encode
            return [list(encode(offer.text, add_special_tokens=False)) for offer in self.rubric.offers]
        # Behind the question: tokenizers treat the beginning of a text in ways of their own.
        asked = self.rubric.render("x", "x")
        before = self._whole(asked)
        found = [self._whole(asked + offer.text) for offer in self.rubric.offers]
        if any(ids[: len(before)] != before or len(ids) == len(before) for ids in found):
            raise ValueError("an offer and the end of the question share a token, so it can't be offered")
        return [ids[len(before) :] for ids in found]

    @cached_property
    def _neutralise(self) -> Neutraliser:
        own = self.rubric.render(MARK, MARK) if self.rubric.whole else None
        fences = self.rubric.fences
        if not self.rubric.template:
            # A template of the tokenizer's own may name the turns of what is judged in plain words.
            turns = [{"role": role, "content": MARK} for role in ("user", "assistant")]
            shown = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            fences = headings(shown.replace(MARK, "{reply}"))
        return Neutraliser({*template_delimiters(self.tokenizer, own), *fences})

    @cached_property
    def _own_specials(self) -> int:
        return self._specials(self._render("x", "x"))

    def _specials(self, ids: Sequence[int]) -> int:
        return sum(token in self.tokenizer.added_tokens_decoder for token in ids)

    def _whole(self, text: str) -> list[int]:
        """Token ids of a whole question; one that writes the first special token itself gets no second."""
        first = self.tokenizer.bos_token
        return list(self.tokenizer.encode(text, add_special_tokens=not (first and text.startswith(first))))

    def _render(self, prompt: str, reply: str) -> list[int]:
        if self.rubric.whole:
            return self._whole(self.rubric.render(prompt, reply))
        if not self.rubric.template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        else:
            turns = [{"role": "user", "content": self.rubric.render(prompt, reply)}]
        encoded = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def encode(self, exchange: Exchange) -> list[int]:
        """Token ids of the question about an exchange, whose delimiters are broken."""
        return self._render(self._neutralise(exchange.prompt), self._neutralise(exchange.reply))

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """One judgement per exchange.

        `unscored`, without asking the model, for a blank reply, a conversation over `max_tokens`, and
        text whose special tokens could not be broken; and whenever `choose` can't tell.
        """
        contexts = [self.encode(exchange) for exchange in exchanges]
        refused = {
            index: why
            for index, ids in enumerate(contexts)
            if (why := self._objection(exchanges[index], ids))
        }
        judged = {index: self._unscored(why) for index, why in refused.items()}
        # Equal lengths together: less padding.
        order = sorted((i for i in range(len(contexts)) if i not in refused), key=lambda i: len(contexts[i]))
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            judged.update(zip(chunk, self._ask([contexts[index] for index in chunk]), strict=True))
        return [judged[index] for index in range(len(exchanges))]

    def _objection(self, exchange: Exchange, ids: Sequence[int]) -> str | None:
        if not exchange.reply.strip():
            return "the reply is blank"
        if len(ids) > self.max_tokens:
            return f"{len(ids)} tokens to read, the limit is {self.max_tokens}"
        if self._specials(ids) != self._own_specials:
            return "special tokens in the judged text could not be broken"
        return None

    def _unscored(self, reason: str) -> Judgement:
        return Judgement(UNSCORED, reason, self.version)

    def _ask(self, contexts: Sequence[Sequence[int]]) -> list[Judgement]:
        padding = int(self.tokenizer.pad_token_id or 0)
        scores = offer_log_likelihoods(self.model, contexts, self.offer_ids, padding)
        return [self._judgement(row) for row in scores.tolist()]

    def _judgement(self, scores: list[float]) -> Judgement:
        offers = self.rubric.offers
        verdict, reason = choose(offers, scores)
        rounded = [round(score, SCORE_DIGITS) for score in scores] if verdict != UNSCORED else []
        best = offers[rounded.index(max(rounded))].score if rounded else None
        texts = [offer.text for offer in self.rubric.offers]
        # As text where JSON has no number for it.
        kept = [round(score, SCORE_DIGITS) if abs(score) < float("inf") else str(score) for score in scores]
        raw = {"log_likelihood": dict(zip(texts, kept, strict=True)), **scored(best)}
        return Judgement(verdict, reason, self.version, raw)


def load_judge(
    folder: Path | str,
    rubric: Rubric,
    batch_size: int = 32,
    max_tokens: int = 2048,
    dtype: str = "float32",
    device: str = "cpu",
) -> LikelihoodChoice:
    """Load a checkpoint as a judge.

    Raises:
        SteerError: the folder is no checkpoint, weights are missing or not finite, the tokenizer has no
            chat template that is needed, or can't tell the offers apart.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file():
        fix = "merge the two, save them in a folder, and name it as `path` of the judge"
        raise SteerError(str(folder), "is an adapter without its base model", fix)
    if not (folder / "config.json").is_file():
        raise SteerError(str(folder), "is not a checkpoint (no config.json)", "check `path` of the judge")
    check_weights(folder)
    tokenizer = load_tokenizer(folder, chat=not rubric.whole)
    longest = min(max_tokens, int(tokenizer.model_max_length))
    parts = [rubric.digest, folder_digest(folder), dtype, longest, code_digest(__name__)]
    model = load_weights(folder, dtype, device)
    version = f"likelihood-{digest(parts)}"
    try:
        return LikelihoodChoice(model, tokenizer, rubric, version, batch_size, longest)
    except ValueError as error:
        raise SteerError(str(folder), str(error), "correct the judge's `offers`, or its `path`") from error
