"""Scores of next-token distributions, in decimal numbers of a hundred digits."""

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext

DIGITS = Context(prec=100, Emin=-(10**9), Emax=10**9)


def probabilities(logits: Sequence[float]) -> list[Decimal]:
    """Softmax without any shift: the exponents have room."""
    powers = [Decimal(logit).exp() for logit in logits]
    return [power / sum(powers) for power in powers]


def refusal_score(logits: Sequence[float], refusal_tokens: Sequence[int]) -> float:
    """ln of the probability of the refusal tokens over that of all others."""
    with localcontext(DIGITS):
        p = probabilities(logits)
        refusing = sum(p[token] for token in set(refusal_tokens))
        other = sum(share for token, share in enumerate(p) if token not in refusal_tokens)
        return float(Decimal(refusing).ln() - Decimal(other).ln())


def kl_divergence(baseline: Sequence[float], steered: Sequence[float]) -> float:
    """Sum of p·ln(p/q)."""
    with localcontext(DIGITS):
        pairs = zip(probabilities(baseline), probabilities(steered), strict=True)
        return float(sum(p * (p / q).ln() for p, q in pairs))
