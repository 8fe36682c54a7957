"""The palette: what a legend asks to tell apart differs for colour-blind readers too."""

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from steer.figures import style

# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# CIE 1976 colour difference; about 2.3 is just noticeable side by side, 20 is plain at a glance.
PLAIN = 20.0


def lab(colour: str, deficiency: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ seen
        / np.array([0.9505, 1.0, 1.089])
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("looks", [style.VERDICTS, style.ANSWERS, style.LABELS, style.COMPONENTS])
def test_colours_of_one_legend_differ_for_every_eye(looks: dict[str, style.Look], deficiency: str) -> None:
    for one, other in combinations(looks.values(), 2):
        difference = np.linalg.norm(lab(one.colour, deficiency) - lab(other.colour, deficiency))
        assert difference > PLAIN, (one.label, other.label)


@pytest.mark.parametrize("looks", [style.VERDICTS, style.ANSWERS, style.LABELS])
def test_what_shares_a_legend_differs_by_marker_too(looks: dict[str, style.Look]) -> None:
    assert len({look.marker for look in looks.values()}) == len(looks)


def test_settings_of_matplotlib_are_ours_inside_and_the_users_again_outside() -> None:
    with mpl.rc_context({"font.size": 31.0}):
        with style.applied():
            assert mpl.rcParams["font.size"] == style.RC["font.size"]
            assert mpl.rcParams["svg.hashsalt"] == "steer"
        assert mpl.rcParams["font.size"] == 31.0
