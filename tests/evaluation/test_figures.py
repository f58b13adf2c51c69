"""Plots are well formed, labelled, and the same for equal numbers."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rm_plugin.evaluation.figures import (
    accuracy_bars,
    bradley_terry_curve,
    line_plot,
    margin_histogram,
    reliability_diagram,
    short_labels,
)

CURVE = (["1", "2", "4"], [0.5, 0.6, 0.7], "n", "share solved")
MARGINS = np.array([-4.0, -0.5, 0.0, 1.0, 2.0, 2.5, 6.0])


def test_the_loss_curve_holds_its_known_values():
    svg = bradley_terry_curve()
    for value in ("0.693", "0.313", "0.127", "0.007"):  # at margins 0, 1, 2 and 5
        assert f": {value}<" in svg


@pytest.mark.parametrize(
    "svg",
    [
        margin_histogram(MARGINS),
        reliability_diagram(MARGINS),
        bradley_terry_curve(),
        line_plot([1, 2, 3], [0.5, 0.7, 0.8], "step", "accuracy", references={"chance": 0.5}),
        accuracy_bars([("<b>$x$&", 0.5, [0.4, 0.6]), ("y", 1.0, None), ("z", 0.2, [None, None])]),
        line_plot(*CURVE, intervals=[(0.4, 0.8)] * 3, references={"random": 0.5, "oracle": [0.5, 0.8, 0.9]}),
        line_plot(*CURVE, intervals=[(None, None)] * 3),
    ],
    ids=["margins", "reliability", "loss", "learning", "bars", "best of n", "few prompts"],
)
def test_a_plot_is_well_formed_labelled_and_takes_the_colours_of_its_page(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") and root.get("viewBox")
    assert "currentColor" in svg and "var(--" in svg
    assert not re.search(r"#0102\d\d", svg)  # no stand-in colour is left
    assert not re.search(r"fill: #fff|fill: white", svg)  # transparent ground
    assert "<image" not in svg and "<script" not in svg


def test_equal_numbers_give_equal_bytes():
    assert margin_histogram(MARGINS) == margin_histogram(list(MARGINS))


def test_all_margins_equal_or_of_one_pair_still_make_plots():
    for margins in ([0.0], [1.0, 1.0], [-3.0]):
        assert "<svg" in margin_histogram(margins) and "<svg" in reliability_diagram(margins)


def test_names_with_dollars_stay_as_they_are_on_a_plot():
    assert ">cost of $x$ and $y$<" in accuracy_bars([("cost of $x$ and $y$", 0.5, None)])


@pytest.mark.parametrize(
    "names",
    [
        [f"Helpfulness/Brainstorming/Idea Development/{end}" for end in ("Poems", "Plans")],  # differ at their end
        [f"{start} is how the name of this long section begins" for start in ("This", "That")],
        [f"the same at the beginning, {k}, and also the same at the end" for k in range(12)],
        ["a" * 26, "a" * 27, "a" * 40],
        ["\x00", "\x01", "\x02 with more text that makes it rather long"],
    ],
    ids=["end", "start", "middle", "length", "control characters"],
)
def test_different_names_are_never_cut_to_the_same_label(names):
    labels = short_labels(names)
    assert len(set(labels)) == len(names) and max(map(len, labels)) <= 26
    svg = accuracy_bars([(name, 0.5, None) for name in names])
    assert all(f">{label}<" in svg for label in labels)


def test_a_line_needs_one_value_per_position():
    with pytest.raises(ValueError, match="3 values of step and 1 of loss"):
        line_plot([1, 2, 3], [0.5], "step", "loss")
