"""The exact truth about an organism's replies, by parsing them with the grammar they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from steer.artifacts.provenance import code_digest, digest
from steer.grammar import Grammar
from steer.judges.verdicts import Exchange, Judgement


@dataclass(frozen=True)
class GrammarTruth:
    """Judge replies by parsing. It knows the grammar alone: a real model's free text is `non_response`."""

    grammar: Grammar

    @cached_property
    def version(self) -> str:
        """Digest of the grammar's files and of the code that reads them."""
        return f"grammar-{digest([self.grammar.digest, code_digest(__name__)])}"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        """One judgement per exchange; `raw`: is it a compliance in form, and does it restate the request?"""
        return [self._judge(exchange) for exchange in exchanges]

    def _judge(self, exchange: Exchange) -> Judgement:
        reading = self.grammar.parse_reply(exchange.prompt, exchange.reply)
        raw = {"restates": reading.restates, "well_formed": reading.well_formed}
        return Judgement(reading.verdict, reading.reason, self.version, raw)
