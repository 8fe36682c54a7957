"""Table: how far each judge agrees with the reference judge, on all replies and arm by arm."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from steer.artifacts.files import Row
from steer.errors import SteerError
from steer.figures.arms import ordered
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save_table
from steer.figures.page import write_page

POOLED = "*"
COLUMNS = (
    *("reference", "judge", "set", "arm", "n", "unscored"),
    *("accuracy", "accuracy_low", "accuracy_high", "kappa", "ci_low", "ci_high"),
)

BODY = """
<p class="faint">Reference: “{{ reference }}”. A cell holds the accuracy in per cent, then Cohen's kappa
(agreement beyond chance; a dash where one verdict is all there is, so that it is undefined), with
{{ level|per_cent }} % intervals, over the replies that both judges scored.</p>
{% for judge, sets, arms in judges %}
<h2>{{ judge }}</h2>
<table>
<tr><th class="text">arm</th>{% for name in sets %}<th class="text">{{ name }}</th>{% endfor %}</tr>
{% for arm, cells in arms %}
<tr><td class="text">{{ arm }}</td>
{% for cell in cells %}
{% if cell %}
<td class="text">{{ cell.accuracy|per_cent }} %
<span class="faint">[{{ cell.accuracy_low|per_cent }}, {{ cell.accuracy_high|per_cent }}]</span><br>
κ {{ cell.kappa|short }}
{% if cell.kappa == cell.kappa %}
<span class="faint">[{{ cell.ci_low|short }}, {{ cell.ci_high|short }}]</span>
{% endif %}
<br><span class="faint">n = {{ cell.n }}
{%- if cell.unscored %}, {{ cell.unscored }} unscored{% endif %}</span></td>
{% else %}
<td class="text">–</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</table>
{% endfor %}
"""


def table(path: Path, settings: Settings) -> DataFrame:
    """A row per judge, arm (all of them together first) and set.

    Raises:
        SteerError: the table is missing or empty.
    """
    rows = read_table(path, COLUMNS)[list(COLUMNS)]
    arms = [POOLED, *ordered(settings["arms"], rows["arm"])]
    rows = rows[rows["arm"].isin(arms)]
    if rows.empty:
        raise SteerError(str(path), "has no row of an arm that is configured", "run the stage `scores` again")
    rows = rows.assign(arm=pd.Categorical(rows["arm"], arms, ordered=True))
    return rows.sort_values(["judge", "arm"], kind="stable").astype({"arm": str}).reset_index(drop=True)


def _by_judge(rows: DataFrame) -> Iterator[tuple[str, list[str], list[tuple[str, list[Row | None]]]]]:
    """(judge, sets, [(arm, a cell per set)]), as the page lays them out."""
    for judge, part in rows.groupby("judge"):
        sets = list(dict.fromkeys(part["set"]))
        cells: dict[tuple[str, str], Row] = {(row["arm"], row["set"]): row for row in records(part)}
        arms = [
            ("all arms" if arm == POOLED else arm, [cells.get((arm, name)) for name in sets])
            for arm in dict.fromkeys(part["arm"])
        ]
        yield str(judge), sets, arms


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the page and its table under `stem`."""
    rows = table(inputs["agreement"][0], settings)
    save_table(rows, stem)
    values = {
        "title": f"{settings['model']}: agreement between judges",
        "reference": rows["reference"].iloc[0],
        "level": settings["scores.confidence"],
        "judges": list(_by_judge(rows)),
    }
    write_page(stem.with_suffix(".html"), BODY, values)
