"""What holds for every page: safety, looks, size, and what is refused of its document."""

import copy
import itertools
import re
from pathlib import Path

import msgspec
import pytest

import mmkd_app
from mmkd_app.pages.demo import ROLE_NAMES
from mmkd_documents.figures import OF_CLASSES, Chance, Interval
from mmkd_documents.judging import MonitorRow, NormalSensorRow, NormalSensorsDocument
from mmkd_documents.variants import VariantRow, VariantsDocument
from tests.app.pages import rendered, test_adaptation_page, test_bench_page, test_judging_page, test_sensors_page
from tests.app.pages.test_data_page import document as data_document
from tests.app.pages.test_export_page import plain, rejected, three
from tests.app.pages.test_judging_page import document as judging_document
from tests.app.pages.test_study_page import grid, searched

__all__ = ["data_document", "grid", "judging_document", "plain", "rejected", "searched", "three"]

HOSTILE = "</style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7*7 }}{% raw %}"
# What the schemas refuse in other words.
CLOSED = {"chosen", "estimated_by", "format", "kind", "level", "metric", "mode", "precision", "role"}
CLOSED |= {"minmax", "percentile"}
PAGES = {
    "two_sensors": "demo", "one_seed": "demo", "five_sensors": "demo", "searched": "study", "grid": "study",
    "three": "export", "plain": "export", "rejected": "export", "judging_document": "judging", "shift": "judging",
    "data_document": "data_report", "bench": "bench", "adaptation": "adaptation", "sensors": "sensors",
    "variants": "variants", "wide": "variants", "normal_sensors": "normal_sensors",
}  # fmt: skip
RECORDED = VariantRow(
    sensor="acc", name="acc", title="acc", score=Interval(mean=0.9), labels_only=0.85, gain=Interval(mean=5.0, low=1.0),
    chance=Chance(figure=0.5, low=0.8, high=0.95, is_better=True), bytes_per_s=600.0, samples_per_s=100.0, window_s=2.0,
    parameters=61_432, memory_kb=240.0,
)  # fmt: skip
CHEAPER = msgspec.structs.replace(
    RECORDED, name="acc__25Hz", title="acc@25Hz", difference=Interval(mean=-1.0, low=-3.0, high=1.0), is_chosen=True,
    valid_difference=-0.5, bytes_per_s=150.0,
)  # fmt: skip
VARIANTS = VariantsDocument(
    dataset="line 3", sha256="d" * 64, judged_on="groups of machines never seen", labelled="10% labelled", seeds=(0,),
    measure=OF_CLASSES[0], most_loss=1.0, rows=(RECORDED, CHEAPER),
)  # fmt: skip
EVERY_COLUMN = {"false_alarms": Interval(mean=0.1), "latency_ms": 0.123, "energy_mj": 1.5, "price": 90.0}
WIDE = tuple(
    msgspec.structs.replace(row, title=f"accelerometer_left_wrist{suffix}", **EVERY_COLUMN)
    for row, suffix in ((RECORDED, ""), (CHEAPER, "@1s,12.5Hz,8bit"))
)
MONITOR = MonitorRow(window_rate=0.048, groups_above=0.17, auroc=0.91, detection=0.6)
WATCHING = tuple(
    NormalSensorRow(sensor=name, explained=0.4, alike={other: 0.3}, synthetic={"gain_up": 0.9, "hum": 0.7}, own=MONITOR)
    for name, other in (("acc", "gyro"), ("gyro", "acc"))
)
STRUCTS = {
    "adaptation": test_adaptation_page.DOCUMENT,
    "sensors": test_sensors_page.DOCUMENT,
    "variants": VARIANTS,
    "wide": msgspec.structs.replace(VARIANTS, rows=WIDE, healthy=("ok",), currency="EUR"),
    "normal_sensors": NormalSensorsDocument(
        name="line 3", sha256="d" * 64, groups=12, normal=240, faults=40, rows=WATCHING, monitor=MONITOR
    ),
}


@pytest.fixture(params=PAGES)
def document(request):
    """A document, and what makes a page of it."""
    kind = PAGES[request.param]
    render = getattr(rendered, f"render_{kind}")
    if request.param in STRUCTS:
        return msgspec.to_builtins(STRUCTS[request.param]), render
    if request.param == "bench":
        return test_bench_page.run_of(), lambda document: render([document])
    if request.param == "shift":
        judging = request.getfixturevalue("judging_document")
        return test_judging_page.with_suite(judging, "shift", test_judging_page.left_out()), render
    return request.getfixturevalue(request.param), render


@pytest.fixture
def page(document, parse):
    return parse(document[1](document[0]))


def test_every_kind_of_page_is_looked_at():
    sources = [path.read_text() for path in (Path(mmkd_app.__file__).parent / "pages").glob("*.py")]
    assert set(PAGES.values()) == {kind for text in sources for kind in re.findall(r"^def render_(\w+)", text, re.M)}


def poisoned(value):
    """The document with a hostile text behind every string, keys of students included."""
    if isinstance(value, dict):
        return {
            key + HOSTILE * (key in ("acc", "gyro", "drive", "labels.ckpt")): inner
            if key in CLOSED
            else poisoned(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [poisoned(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) and value not in CLOSED else value


def test_hostile_names_stay_text(document, parse):
    page = parse(document[1](poisoned(document[0])))
    assert not {node.tag for node in page.walk()} & {"script", "img"}
    assert len(page.all("style")) == 1
    assert HOSTILE.split("{{")[0].strip('"&') in page.text
    assert "{{ 7*7 }}" in page.text
    assert not any(name.startswith("on") for node in page.walk() for name in node.attrs)


def test_nothing_is_fetched_from_anywhere(page):
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert [n.attrs["content"] for n in page.all("meta") if "http-equiv" in n.attrs] == [allowed]
    for node in page.walk():
        assert node.tag not in {"script", "iframe", "object", "embed", "video", "audio", "base", "form"}
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert re.match(r"#|data:|\w+\.html$", node.attrs.get(name, "#")), (node.tag, node.attrs[name])
    style = page.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style


def test_ids_are_unique_figures_are_named_tables_have_captions_and_headings_never_skip_a_level(page):
    ids = [node.attrs["id"] for node in page.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    named = [name for node in page.walk() for name in node.attrs.get("aria-labelledby", "").split()]
    linked = [node.attrs["href"][1:] for node in page.all("a") if node.attrs["href"].startswith("#")]
    assert set(named) | set(linked) <= set(ids)
    for svg in page.all("svg"):
        if svg.attrs.get("aria-hidden") != "true":
            assert svg.attrs["role"] == "img"
            assert svg.all("title")[0].text
            assert svg.all("desc")[0].text
    assert not any({"fill", "stroke", "color", "bgcolor"} & set(node.attrs) for node in page.walk())
    assert all(table.all("caption") for table in page.all("table"))
    levels = [int(node.tag[1]) for node in page.walk() if re.fullmatch(r"h[1-6]", node.tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_role_has_a_colour(page):
    (style,) = page.all("style")
    roles = {f"role-{role}" for role in ROLE_NAMES}
    roles |= {name for node in page.walk() for name in node.attrs.get("class", "").split() if name.startswith("role-")}
    assert {role for role in roles if f".{role}" not in style.text} == set()


def test_equal_documents_give_equal_bytes_far_below_a_megabyte_and_stay_as_they_are(document):
    given, render = document
    before = copy.deepcopy(given)
    html = render(given)
    assert given == before
    assert render(before) == html
    assert len(html.encode()) < 300_000
