"""Page: a few prompts with every arm's reply, withheld unless the configuration asks for them.

Replies are untrusted text: they are escaped, whatever they hold. While they are withheld, so are the
prompts and the judge's reasons, which may quote them; only verdicts and lengths are shown.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer.artifacts.files import Row, iter_jsonl
from steer.errors import SteerError
from steer.figures.arms import group_of, ordered
from steer.figures.inputs import Inputs, Settings
from steer.figures.page import write_page

BODY = """
{% if withheld %}
<p class="notice">Prompts and replies are withheld from this page; they stand in the results folder. Set
<code>report.replies: full</code> to show them here, when the readers of the report are known.</p>
{% else %}
<p class="notice">Untrusted model output, shown as it was written; nothing of it was edited for safety.</p>
{% endif %}
<p class="faint">The first {{ samples }} test prompts of each set by their id; the same ones for every arm,
and of sampled replies the first. Verdicts of judge “{{ judge }}”.</p>
{% for name, prompts in sets %}
<h2>{{ name }}</h2>
<table>
<tr><th class="text">prompt and arm</th><th class="text">verdict</th><th>tokens</th>
{% if not withheld %}<th class="text">reply</th>{% endif %}</tr>
{% for prompt, rows in prompts %}
<tr class="group"><td class="text reply" colspan="4">{{ prompt.id }} ({{ prompt.category }})
{%- if not withheld %}: {{ prompt.text }}{% endif %}</td></tr>
{% for row in rows %}
<tr><td class="text">{{ row.arm }} <span class="faint">{{ row.group }}</span></td>
<td class="text">{{ row.verdict }}</td>
<td>{{ row.n_tokens }}{{ "+" if row.finish == "length" }}</td>
{% if not withheld %}<td class="text reply">{{ row.text }}</td>{% endif %}</tr>
{% endfor %}
{% endfor %}
</table>
{% endfor %}
"""


def _sampled(path: Path, samples: int) -> list[Row]:
    """Test prompts with the smallest ids; ids come from the content, so this is a fixed arbitrary choice."""
    prompts = [row for row in iter_jsonl(path) if row["split"] == "test"]
    return sorted(prompts, key=lambda row: str(row["id"]))[:samples]


def _by_place(path: Path, ids: set[str]) -> dict[tuple[str, str], Row]:
    """Of sampled replies the first."""
    rows = (row for row in iter_jsonl(path) if row["prompt_id"] in ids and not row.get("sample"))
    return {(row["arm"], row["prompt_id"]): row for row in rows}


def _replies(
    prompts: list[Row], replies: Path, verdicts: Path, settings: Settings
) -> Iterator[tuple[Row, list[Row]]]:
    ids = {str(prompt["id"]) for prompt in prompts}
    texts, judged = _by_place(replies, ids), _by_place(verdicts, ids)
    arms = ordered(settings["arms"], {arm for arm, _ in texts})
    for prompt in prompts:
        places = [(arm, prompt["id"]) for arm in arms if (arm, prompt["id"]) in texts]
        missing = [place for place in places if place not in judged]
        if missing:
            raise SteerError(str(verdicts), f"lacks the verdict of {missing[0]}", "run `judging` again")
        rows = [
            {"group": group_of(settings["arms"][arm]), **texts[arm, key], **judged[arm, key]}
            for arm, key in places
        ]
        yield prompt, rows


def samples(inputs: Inputs, settings: Settings) -> list[tuple[str, list[tuple[Row, list[Row]]]]]:
    """(set, [(prompt, rows of its replies with their verdicts, arms in order)]) of every set.

    Raises:
        SteerError: a file is missing, or a reply has no verdict.
    """
    count = settings["report"]["samples"]
    files = zip(inputs["prompts"], inputs["replies"], inputs["verdicts"], strict=True)
    return [
        (prompts.stem, list(_replies(_sampled(prompts, count), replies, verdicts, settings)))
        for prompts, replies, verdicts in files
    ]


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the page under `stem`."""
    values: dict[str, Any] = {
        "title": f"{settings['model']}: sample replies",
        "withheld": settings["report"]["replies"] != "full",
        "samples": settings["report"]["samples"],
        "judge": settings["scores.judge"],
        "sets": samples(inputs, settings),
    }
    write_page(stem.with_suffix(".html"), BODY, values)
