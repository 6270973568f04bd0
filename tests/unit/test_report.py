"""The report: complete, self-contained, safe, and the same every time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest

from hpbench.errors import InvalidConfiguration
from hpbench.evaluation import plots
from hpbench.evaluation.report import write_report
from hpbench.evaluation.results import Results

MakeResults = Callable[[Mapping[str, float]], Results]
AGENTS = {"library-default": 0.5, "cosine-decay": 0.7, "mine": 0.9}


class Page(HTMLParser):
    """Collects what the tests ask about."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.attributes if found == name]


def test_page_is_well_formed_and_needs_nothing_but_itself(make_results: MakeResults, tmp_path: Path) -> None:
    path = write_report(make_results(AGENTS), tmp_path / "elsewhere")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    identifiers = page.all("id")
    assert len(identifiers) == len(set(identifiers))
    inner = [value for name in ("href", "xlink:href") for value in page.all(name)]
    assert inner
    assert all(value.startswith("#") and value[1:] in identifiers for value in inner)

    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.all("src") == []
    assert "@import" not in text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert set(re.findall(r"url\((.)", text)) == {"#"}

    # Accessible: headings, captions, and a name for every figure.
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") == page.all("role").count("img") == 5
    assert page.all("lang") == ["en"]
    assert page.tags.count("caption") == page.tags.count("table") == 4
    assert "prefers-color-scheme: dark" in text

    # All three files.
    assert path.stat().st_size < 1_000_000
    markdown = path.with_name("report.md").read_text()
    assert "| mine |" in markdown
    assert "## Against library-default" in markdown
    assert path.with_name("table.csv").read_text().splitlines()[1].startswith("1,mine,0.")


def test_names_from_outside_cannot_become_markup(make_results: MakeResults) -> None:
    results = make_results({"<img src=x onerror=alert(1)>": 0.9, "b & c": 0.5})
    text = write_report(results).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "&lt;img src=x" in text
    assert "<for>" not in text


def test_same_results_give_the_same_bytes(make_results: MakeResults, tmp_path: Path) -> None:
    results = make_results({"mine": 0.9, "quitter!": 0.5})
    first, second = (write_report(results, tmp_path / name) for name in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()
    assert "1/2" in first.read_text(encoding="utf-8")


def test_one_agent_alone_can_be_reported(make_results: MakeResults) -> None:
    assert "Against" not in write_report(make_results({"mine": 0.5})).read_text(encoding="utf-8")


def test_without_results_there_is_no_report(make_results: MakeResults) -> None:
    with pytest.raises(InvalidConfiguration, match="no finished row"):
        write_report(make_results({}))


def test_figures_leave_global_state_alone(make_results: MakeResults) -> None:
    before = dict(mpl.rcParams)
    plots.to_svg(plots.learning_curves(make_results(AGENTS)), "Curves", "curves")
    assert dict(mpl.rcParams) == before


def test_agents_are_told_apart_by_colour_and_dashes() -> None:
    agents = ["library-default", "random", "cosine-decay", *(f"mine-{i}" for i in range(12))]
    looks = plots.looks(agents)
    assert list(looks) != []
    assert len({(look.colour, look.dashes) for look in looks.values()}) == len(agents)


def test_shipped_agents_always_look_the_same() -> None:
    alone = plots.looks(["cosine-decay"])["cosine-decay"]
    assert plots.looks(["aaa", "cosine-decay", "library-default", "zzz"])["cosine-decay"] == alone


def test_log1m_axes_show_the_value(make_results: MakeResults) -> None:
    results = make_results(AGENTS)
    svg = plots.to_svg(plots.schedules(results, results.suite.rows[0]), "Schedules", "s")
    assert all(f">{label}</text>" in svg for label in ("discount", "learning_rate", "0.9", "0.99"))
    # What nobody changed is left out.
    assert "clip_range" not in svg
