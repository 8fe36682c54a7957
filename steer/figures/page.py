"""HTML pages of the report: self-contained, every value escaped, nothing that could run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from steer.artifacts.files import write_bytes
from steer.figures.style import INK, VERDICTS, per_cent_number

# The policy stands behind the escaping: even markup that slipped through could load and run nothing.
FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 12px/1.4 "DejaVu Sans", Verdana, sans-serif; color: {{ ink }}; margin: 1em; }
h1 { font-size: 1.25em; } h2 { font-size: 1.05em; margin: 1.6em 0 .4em; }
table { border-collapse: collapse; } th, td { padding: .2em .4em; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #888; font-weight: 600; } td { border-bottom: 1px solid #ddd; }
th.text, td.text { text-align: left; }
tr.group td { color: #666; font-weight: 600; border: 0; padding-top: .7em; }
tr.set td { font-weight: 600; font-size: 1.1em; padding-top: 1.3em; border-bottom: 2px solid #888; }
td { white-space: nowrap; } th { vertical-align: bottom; }
td.reply { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 46em; } .faint { color: #666; }
.bar { display: inline-block; width: 6em; height: .95em; border: 1px solid #888; }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .35em 0 1.2em; border: 1px solid #888; }
.notice { border-left: 4px solid #D55E00; padding: .3em .8em; background: #fbf3ec; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</body>
</html>
"""


def per_cent(share: float) -> str:
    """A share in per cent, without the sign; a dash where there is none."""
    return "–" if share != share else per_cent_number(share)


def points(change: float) -> str:
    """A change of a share in percentage points, with its sign."""
    if change != change:
        return "–"
    whole = round(100 * change)
    return f"{whole:+d}".replace("-", "−") if whole else "0"


def p_value(value: float) -> str:
    """A p-value with two digits, or a bound when it is tiny."""
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.2g}"


def decimals(value: float) -> str:
    """A number between -1 and 1 with two decimals."""
    return "–" if value != value else f"{value:.2f}".replace("-", "−")


def short(value: float) -> str:
    """A number with two significant digits."""
    return "–" if value != value else f"{value:.2g}".replace("-", "−")


def amount(value: float | int) -> str:
    """How many prompts, of which samples may be parts: two decimals, and none where it is whole."""
    return f"{round(value, 2):.10g}"


def bar(row: Mapping[str, Any]) -> str:
    """CSS background that shows a row's three rates side by side."""
    refusal, broken = 100 * row["refusal_rate"], 100 * (1 - row["full_response_rate"])
    blue, grey, orange = (VERDICTS[name].colour for name in ("refusal", "non_response", "full_response"))
    return (
        f"background: linear-gradient(90deg, {blue} {refusal:.1f}%, {grey} {refusal:.1f}%,"
        f" {grey} {broken:.1f}%, {orange} {broken:.1f}%)"
    )


def render(body: str, values: Mapping[str, Any]) -> str:
    """The page whose body is the Jinja template `body`; every value of `values` is escaped in it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    formats = {
        "per_cent": per_cent,
        "points": points,
        "p_value": p_value,
        "decimals": decimals,
        "short": short,
        "amount": amount,
        "bar": bar,
    }
    environment.filters.update(formats)
    template = environment.from_string(FRAME.replace("{% block body %}{% endblock %}", body))
    return template.render(values, ink=INK, verdicts=VERDICTS)


def write_page(path: Path, body: str, values: Mapping[str, Any]) -> None:
    """Write a page; see `render`."""
    write_bytes(path, render(body, values).encode())
