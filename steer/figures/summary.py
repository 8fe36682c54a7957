"""Table: every arm on every set, with intervals, and with changes against the unsteered model."""

from pathlib import Path

from pandas import DataFrame

from steer.claims import CLAIM_COLUMNS, SPECIFIC
from steer.controls import compared
from steer.figures.inputs import Inputs, Settings, records
from steer.figures.output import save_table
from steer.figures.page import write_page
from steer.figures.scores import COUNTS, RATES, shown

TESTS = {
    False: {"effective": "", "test": "exact McNemar test"},
    True: {
        "effective": " of as many replies as the samples of a prompt are worth",
        "test": "test of all flips of prompts’ signs, or of flips drawn where those are too many",
    },
}
"""What intervals and p-values are, by whether prompts have several replies (`steer.rates`)."""

DIFFERENCES = tuple(
    f"{verdict}_difference{part}"
    for verdict in ("refusal", "full_response")
    for part in ("", "_low", "_high", "_p")
)
COLUMNS = (*COUNTS, *RATES, *DIFFERENCES, "restates_rate", "first_token_kl", *CLAIM_COLUMNS)

BODY = """
<p class="faint">Judged by “{{ judge }}”. In brackets: {{ level|per_cent }}&nbsp;% intervals (Wilson for
shares{{ effective }}, paired bootstrap over prompts for changes against the unsteered model); p: {{ test }};
restates: share of the well-formed answers that restate the request; KL: of the first token, against the
unsteered model; against controls: by how much more, in what an arm is for, it does than the one of its
controls that comes closest.</p>
<p class="notice">{{ claimed }}</p>
<p>
{% for look in verdicts.values() %}
<span class="key" style="background: {{ look.colour }}"></span>{{ look.label }}
{% endfor %}
</p>
<table>
<tr><th class="text">arm</th><th>n</th>{% if unscored %}<th>unscored</th>{% endif %}<th></th>
<th>refusal,<br>%</th><th>change,<br>points</th><th>p</th>
<th>full response,<br>%</th><th>change,<br>points</th><th>p</th>
<th>broken,<br>%</th><th>restates,<br>%</th><th>KL,<br>nats</th>
<th class="text">against controls,<br>points</th></tr>
{% for name, label, rows in sets %}
<tr class="set"><td class="text" colspan="14">{{ name }} ({{ label }} prompts)</td></tr>
{% for row in rows %}
{% if loop.first or row.group != loop.previtem.group %}
<tr class="group"><td class="text" colspan="14">{{ row.group }}</td></tr>
{% endif %}
<tr><td class="text">{{ row.arm }}</td><td>{{ row.n }}</td>
{% if unscored %}<td>{{ row.unscored|amount }}</td>{% endif %}

<td><span class="bar" style="{{ row|bar }}"></span></td>
{% for verdict in ("refusal", "full_response") %}
<td>{{ row[verdict ~ "_rate"]|per_cent }}
<span class="faint">[{{ row[verdict ~ "_low"]|per_cent }}, {{ row[verdict ~ "_high"]|per_cent }}]</span></td>
{% if row.group == "unsteered" %}
<td>–</td><td>–</td>
{% else %}
<td>{{ row[verdict ~ "_difference"]|points }}
<span class="faint">[{{ row[verdict ~ "_difference_low"]|points }},
{{ row[verdict ~ "_difference_high"]|points }}]</span></td>
<td>{{ row[verdict ~ "_difference_p"]|p_value }}</td>
{% endif %}
{% endfor %}
<td>{{ row.non_response_rate|per_cent }}</td>
<td>{{ row.restates_rate|per_cent }}</td>
<td>{{ row.first_token_kl|short }}</td>
<td class="text">{% if row.claim %}{{ row.claim }}{% if row.control %}
&nbsp;<span class="faint">{{ row.control_difference|points }} [{{ row.control_difference_low|points }},
{{ row.control_difference_high|points }}] {{ row.control }}</span>{% endif %}{% endif %}</td></tr>
{% endfor %}
{% endfor %}
</table>
"""


def table(inputs: Inputs, settings: Settings) -> DataFrame:
    """A row per arm and set, with the numbers of scores.csv that the page shows."""
    rows = shown(inputs["scores"][0], settings, COLUMNS)
    # A column without any text is read as one of numbers.
    texts = {column: rows[column].astype(object).fillna("") for column in ("claim", "control")}
    return rows.assign(**texts)


def claimed(rows: DataFrame, settings: Settings) -> str:
    """What the table lets one say of where refusal is, in a sentence or two."""
    arms = [name for name, arm in compared(settings["arms"]).items() if arm.locates]
    tried = rows[rows["arm"].isin(arms) & (rows["claim"] != "")]
    specific = tried[tried["claim"] == SPECIFIC]
    if tried.empty:
        return "No arm takes experts away or calls others, so nothing is said of where refusal is."
    if specific.empty:
        return (
            "No expert is claimed: no arm that takes experts away or calls others does more than all of its"
            " controls, which do the same with other experts."
        )
    named = ", ".join(f"{row['arm']} ({row['set']})" for row in records(specific))
    return f"More than all of their controls do: {named}. No other arm supports a claim about experts."


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the page and its table under `stem`."""
    rows = table(inputs, settings)
    save_table(rows, stem)
    by_set = [
        (name, part["label"].iloc[0], records(part))
        for name in settings["generation.sets"]
        if not (part := rows[rows["set"] == name]).empty
    ]
    values = {
        "title": f"{settings['model']}: every arm on every set",
        "judge": settings["scores"]["judge"],
        "level": settings["scores"]["confidence"],
        "unscored": bool(rows["unscored"].any()),
        "sets": by_set,
        "claimed": claimed(rows, settings),
        **TESTS[settings["generation.samples"] > 1],
    }
    write_page(stem.with_suffix(".html"), BODY, values)
