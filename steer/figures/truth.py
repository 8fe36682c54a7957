"""Figure: whether refusal stands and falls with the parts that a planted model's truth names.

A row per trial, a panel per class of prompts: shares of the exact verdicts on full replies to held-out ones.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from steer.figures import style
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save
from steer.figures.points import whiskers

SHARES = {
    verdict: tuple(f"{verdict}_{part}" for part in ("rate", "low", "high")) for verdict in style.VERDICTS
}
COLUMNS = ("role", "parts", "way", "label", "n", *(name for names in SHARES.values() for name in names))
ROLES = {
    "baseline": "unsteered",
    "carriers": "all carriers",
    "carrier": "one of the carriers",
    "decoy": "decoy",
    "control": "no carrier",
}
WAYS = {
    "none": "",
    "mask_experts": "experts masked",
    "reroute_from": "rerouted away from",
    "reroute_to": "rerouted to",
    "mask_heads": "heads masked",
    "ablate_attention": "readout's direction out of attention",
    "ablate_mlp": "readout's direction out of MLP or MoE blocks",
}
WIDTH, ROW_HEIGHT, APART = 8.6, 0.34, 0.22


def table(inputs: Inputs) -> DataFrame:
    """A row per trial and class of prompts, as they were tried.

    Raises:
        SteerError: the table is missing or lacks a column.
    """
    return read_table(inputs["truth"][0], COLUMNS)[list(COLUMNS)]


def _names(rows: DataFrame) -> list[str]:
    """What is done in every row: the role with its parts, and the way, without what is empty."""
    done = []
    for row in records(rows.fillna({"parts": ""})):
        what = f"{ROLES[row['role']]} {row['parts']}".strip()
        done.append(", ".join(words for words in (what, WAYS[row["way"]]) if words))
    return done


def _panel(axes: Axes, rows: DataFrame) -> None:
    for place, (verdict, look) in enumerate(style.VERDICTS.items()):
        shift = APART * (place - (len(SHARES) - 1) / 2)
        at = [-float(row) - shift for row in range(len(rows))]
        whiskers(axes, at, rows, SHARES[verdict], look, along="x")  # type: ignore[arg-type]
    style.share_axis(axes, "x")
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share of replies (%)")


def plot(rows: DataFrame, settings: Settings) -> Figure:
    """Both classes beside each other, with lines between the roles."""
    classes = list(dict.fromkeys(rows["label"]))
    tried = rows[rows["label"] == classes[0]]
    figure = style.canvas(WIDTH, 1.5 + ROW_HEIGHT * len(tried))
    panels = figure.subplots(1, len(classes), sharey=True, squeeze=False)[0]
    for axes, label in zip(panels, classes, strict=True):
        mine = rows[rows["label"] == label]
        _panel(axes, mine)
        counts = sorted(set(mine.loc[mine["role"] != "baseline", "n"]))
        unsteered = mine.loc[mine["role"] == "baseline", "n"].max()
        number = "–".join(map(str, counts))
        axes.set_title(f"{label} prompts\nn = {number}, unsteered {unsteered}", size=9)
        roles = list(mine["role"])
        for place in range(1, len(roles)):
            if roles[place] != roles[place - 1]:
                axes.axhline(0.5 - place, color=style.FAINT, lw=0.6)
    panels[0].set_yticks([-place for place in range(len(tried))])
    panels[0].set_yticklabels(_names(tried), size=8)
    panels[0].set_ylim(0.6 - len(tried), 0.5)
    style.headline(figure, f"{settings['model']}: does refusal stand and fall with what was planted?")
    level = style.per_cent(settings["truth.confidence"])
    handles = style.marker_handles(style.VERDICTS.values())
    style.legend_below(figure, [*handles, style.interval_handle(f"{level} Wilson interval")])
    return figure


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the figure and its table under `stem`."""
    rows = table(inputs)
    with style.applied():
        save(plot(rows, settings), rows, stem)
