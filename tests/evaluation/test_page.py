"""Tables and pages: whatever they are given is escaped, whole and aligned."""

import re

from rm_plugin.evaluation.page import Section, Table, render_page


def test_whatever_a_page_is_given_is_escaped():
    evil = "<script>alert(1)</script>"
    table = Table([evil, evil], [[evil, evil]], [evil], title=evil)
    section = Section(
        evil,
        [(evil, evil, evil)],
        [(evil, evil)],
        [table],
        [("<svg></svg>", evil)],
        [(evil, [(evil,) * 3])],
    )
    page = render_page(evil, [section])
    assert "<script" not in page and page.count("&lt;script&gt;") == 19 and "<svg></svg>" in page


def test_columns_of_numbers_are_set_to_the_right():
    page = render_page("t", [Section(tables=[Table(["name", "note", "n"], [["a", "b", "1"]], num_text_columns=2)])])
    assert '<td>a</td><td>b</td><td class="number">1</td>' in page and '<th class="number">n</th>' in page


def test_names_are_not_cut_in_a_narrow_terminal(monkeypatch, capsys):
    names = [f"Helpfulness/Brainstorming_And_Idea_Development_{end}" for end in ("Poems", "Plans")]
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Table(["name", "value"], [[name, "1.0"] for name in names]).print()
    out = "".join(
        re.sub(r"[^\w/]", "", line.split("│")[1]) for line in capsys.readouterr().out.splitlines() if "│" in line
    )
    assert all(name in out for name in names)
