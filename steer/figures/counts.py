"""Table: how many of everything stand behind the numbers: asked for, found, and lost on the way."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pandas import DataFrame

from steer.artifacts.files import Row
from steer.artifacts.prompts import read_prompts
from steer.figures.inputs import Inputs, Settings, read_table, records
from steer.figures.output import save_table
from steer.figures.page import write_page

COLUMNS = ("what", "of", "part", "asked", "n", "lost", "lost_as")
SPLITS = ("train", "val", "test")
SCORED = ("arm", "set", "judge", "n", "unscored")

BODY = """
<p class="faint">Asked: what the settings ask for, or what there was to work on. n: what the numbers stand on.
Lost: the difference, and what became of it. A dash: nothing was asked for by number.</p>
{% for what, rows in groups %}
<h2>{{ what }}</h2>
<table>
<tr><th class="text">of</th><th class="text">part</th><th>asked</th><th>n</th><th>lost</th>
<th class="text">as</th></tr>
{% for row in rows %}
<tr><td class="text">{{ row.of }}</td><td class="text">{{ row.part }}</td>
<td>{{ row.asked if row.asked is not none else "–" }}</td><td>{{ row.n }}</td>
<td>{{ row.lost if row.lost is not none else "–" }}</td>
<td class="text">{{ row.lost_as if row.lost else "" }}</td></tr>
{% endfor %}
</table>
{% endfor %}
"""


def rows_of(inputs: Inputs, settings: Settings) -> Iterator[Row]:
    """A row per set and split, judge and set, contrast, task, text that is read, and labelled set."""
    test: dict[str, int] = {}
    for path in inputs["used"]:
        found = Counter(prompt.split for prompt in read_prompts(path))
        test[path.stem] = found["test"]
        yield from _prompts(path.stem, found, settings["sets"][path.stem])
    yield from _verdicts(inputs["scores"][0], test, settings["generation.samples"])
    for path in inputs["routing"]:
        yield from _routed(path)
    for path in inputs["effects"]:
        for row in _measured(path):
            yield _row(f"{path.stem} of arms", row["arm"], row["part"], None, int(row["n"]), "")
    for path in inputs["labelled"]:
        for row in records(read_table(path, ("labelled", "judge", "length", "n", "unscored"))):
            part, asked = f"{row['labelled']}, length {row['length']}", int(row["n"] + row["unscored"])
            yield _row("labelled replies", row["judge"], part, asked, int(row["n"]), "unscored")


def _prompts(name: str, found: Mapping[Any, int], asked: Mapping[str, Any]) -> Iterator[Row]:
    for split in SPLITS:
        if found[split] or asked[split]:
            yield _row("prompts", name, split, asked[split], found[split], "not there, or in a test set")


def _verdicts(path: Path, test: Mapping[str, int], samples: int) -> Iterator[Row]:
    """Over the arms that answer a set, which may be fewer than all; of sampled replies in prompts."""
    what = "verdicts on replies" if samples == 1 else f"prompts with verdicts on {samples} replies each"
    sums: dict[tuple[str, str], list[float]] = {}
    for row in records(read_table(path, SCORED)):
        sums.setdefault((row["judge"], row["set"]), []).append(float(row["n"]) - float(row["unscored"]))
    for (judge, name), scored in sums.items():
        asked, part = len(scored) * test[name], f"{name}, {len(scored)} arms"
        yield _row(what, judge, part, asked, round(sum(scored)), "unscored")


def _routed(path: Path) -> Iterator[Row]:
    """Both sides of a contrast; a ranking of others may not say how many prompts it stands on."""
    row = records(read_table(path, ("layer", "expert")))[0]
    for side in (1, 2):
        n, routings = row.get(f"prompts_{side}"), row.get(f"total_{side}")
        if n and n == n:
            part = f"side {side}, {int(routings or 0)} routings a layer"
            yield _row("prompts that routing is counted on", path.stem, part, None, int(n), "")


def _measured(path: Path) -> list[Row]:
    table = read_table(path, ("arm", "n"))
    part = table["set"] if "set" in table else table["task"] + ", " + table["metric"]
    return records(table.assign(part=part)[["arm", "part", "n"]].drop_duplicates())


def _row(what: str, of: str, part: str, asked: int | None, n: int, lost_as: str) -> Row:
    lost = None if asked is None else asked - n
    return dict(zip(COLUMNS, (what, of, part, asked, n, lost, lost_as if lost else ""), strict=True))


def draw(inputs: Inputs, settings: Settings, stem: Path) -> None:
    """Save the page and its table under `stem`."""
    rows = list(rows_of(inputs, settings))
    kinds = dict.fromkeys(row["what"] for row in rows)
    groups = [(what, [row for row in rows if row["what"] == what]) for what in kinds]
    save_table(DataFrame(rows, columns=list(COLUMNS), dtype=object), stem)
    write_page(stem.with_suffix(".html"), BODY, {"title": f"{settings['model']}: how many", "groups": groups})
