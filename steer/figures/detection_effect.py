"""Figure: do the experts that a detector names carry the effect? Detection score against causal effect.

A panel per detector, a point per expert. The effect is what the refusal score of harmful prompts loses
when the router can't choose the expert; known carriers and decoys are marked.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from steer.artifacts.facts import read_facts
from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.stats import Interval, spearman

EFFECT = "mask_effect"
ROUTING = {
    "recognise": "routing on prompts: difference of rates",
    "control": "routing on replies: difference of rates",
}
DETECTORS = {
    "direction_norm": "norm of the expert's direction",
    "written_share": "share of the refusal direction written",
    "gate_gradient": "first-order effect of removing it",
    "contrast_gradient": "first-order effect of its harmless mean",
}
ROLES = {
    "carrier": style.Look("planted carrier", style.CHOICE, marker="s"),
    "decoy": style.Look("planted decoy", "#E69F00", marker="^"),
    "other": style.Look("expert that nothing is known of", style.GREY, marker="o"),
}
COLUMNS = 3


def _detectors(settings: Settings) -> dict[str, str]:
    """What a panel says of its detector, by name; those of routing have the names of contrasts."""
    routing = {f"{settings[f'routing.{role}']}_top_k": said for role, said in ROUTING.items()}
    return routing | DETECTORS


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per detector and expert whose effect was measured: score, effect and role."""
    rows = read_table(inputs["detection"][0], ("layer", "expert", EFFECT))
    truth = read_facts(inputs["facts"][0]).truth
    carriers = set(truth.carriers) if truth and truth.carrier == "experts" else set()
    decoys = set(truth.decoys) if truth else set()
    found, detectors = [], _detectors(settings)
    for row in records(rows[rows[EFFECT].notna()]):
        place = row["layer"], row["expert"]
        role = "carrier" if place in carriers else "decoy" if place in decoys else "other"
        for name in detectors:
            if name in row and np.isfinite(row[name]):
                entry = {"layer": place[0], "expert": place[1], "detector": name}
                found.append({**entry, "score": row[name], "effect": row[EFFECT], "role": role})
    return DataFrame(found)


def correlation(rows: DataFrame, confidence: float) -> Interval:
    """Spearman's rho of score and effect over experts."""
    return spearman(rows["score"].to_numpy(), rows["effect"].to_numpy(), confidence)


def _panel(axes: Axes, rows: DataFrame, title: str, confidence: float) -> None:
    axes.axhline(0, color=style.FAINT, lw=0.7)
    for role, look in reversed(ROLES.items()):
        mine = rows[rows["role"] == role]
        size = 18 if role == "other" else 46
        axes.scatter(mine["score"], mine["effect"], s=size, color=look.colour, marker=look.marker, lw=0)
    for row in records(rows[rows["role"] != "other"]):
        axes.annotate(
            f"{row['layer']}:{row['expert']}",
            (row["score"], row["effect"]),
            xytext=(4, 4),
            textcoords="offset points",
            size=7,
        )
    rho = correlation(rows, confidence)
    axes.set_title(f"{title}\n{_words(rho)}", size=8.5, weight="normal")
    axes.set_xlabel("detection score", size=8)


def _words(rho: Interval) -> str:
    if np.isnan(rho.estimate):
        return "no rank correlation: a constant score"
    numbers = f"ρ = {rho.estimate:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
    return numbers.replace("-", "−")


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """A panel per detector, on one scale of effects."""
    detectors, drawn = _detectors(settings), set(rows["detector"])
    names = [name for name in detectors if name in drawn]
    lines = -(-len(names) // COLUMNS)
    figure = style.canvas(9.6, 0.9 + 2.7 * lines)
    panels = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False)
    for axes, name in zip(panels.ravel(), names, strict=False):
        _panel(axes, rows[rows["detector"] == name], detectors[name], settings["scores.confidence"])
    for axes in panels.ravel()[len(names) :]:
        axes.set_visible(False)
    for line in panels:
        line[0].set_ylabel("refusal score lost\nwhen masked (nats)", size=8)
    style.headline(figure, f"{settings['model']}: detection against causal effect, expert by expert")
    style.legend_below(figure, _legend(rows))
    return figure


def _legend(rows: DataFrame) -> list[Line2D]:
    return style.marker_handles(look for role, look in ROLES.items() if role in set(rows["role"]))


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs, settings)
    with style.applied():
        save(plot(rows, settings), rows, stem)
