"""The demo page as a browser gets it: its document, its figures, its safety, its looks and its file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mmkd_app.pages.page import PageError, write_page
from tests.app.pages.conftest import cells, section
from tests.app.pages.rendered import read_demo, render_demo
from tests.edge.said import said


def one(fraction):
    return f"{100 * fraction:.1f}"


def plus_minus(spread):
    return f"{one(spread['mean'])} ± {one(spread['std'])}"


def signed(value):
    return f"{value:+.1f}".replace("-", "\u2212")


def unsigned(value):
    return f"{value:.1f}".replace("-", "\u2212")


def result_rows(page):
    """The main table: (group, model) -> texts of its cells."""
    rows, group = {}, ""
    for row in page.all("table", "results")[0].all("tr")[1:]:
        head = row.all("th")[0].text
        if "group" in row.classes:
            group = head.split()[0]
        else:
            rows[group, head] = [cell.text for cell in row.all("td")]
    return rows


def test_the_first_sentence_of_a_first_look_says_so(two_sensors, parse):
    (lede,) = parse(render_demo(two_sensors | {"is_first_look": True})).all("p", "lede")
    assert lede.text.startswith(
        "A first look, with a small teacher and few training steps: scores may change; the full run takes longer."
    )
    (lede,) = parse(render_demo(two_sensors)).all("p", "lede")
    assert "first look" not in lede.text


def test_the_main_table_holds_the_figures_of_the_document(five_sensors, parse):
    rows = result_rows(parse(render_demo(five_sensors)))
    scores = ("accuracy", "balanced_accuracy", "macro_f1")
    teacher = five_sensors["teacher"]
    assert rows["All", "Teacher"] == [*(plus_minus(teacher[key]) for key in scores), "–", "–", "1.25\u202fM"]
    for modality, sensor in five_sensors["students"].items():
        for rival, head in (("extra_trees", "Extra-trees"), ("mini_rocket", "MiniRocket")):
            assert rows[modality, head] == [*(plus_minus(sensor[rival][key]) for key in scores), "–", "–", "–"]
        baseline, student, gain = sensor["baseline"], sensor["student"], sensor["gain_points"]
        assert rows[modality, "Labels only"] == [
            *(plus_minus(baseline[key]) for key in scores), "–", "–", "61.4\u202fk"
        ]  # fmt: skip
        assert rows[modality, "Distilled student"] == [
            *(plus_minus(student[key]) for key in scores),
            f"{signed(gain['mean'])} {unsigned(gain['low'])} to {unsigned(gain['high'])}",
            f"{100 * sensor['gap_recovered']:.0f}".replace("-", "\u2212"),
            "61.4\u202fk",
        ]
    assert len(rows) == 1 + 4 * len(five_sensors["students"])


def test_what_was_not_measured_has_no_section_no_spread_and_reasons_for_figures(one_seed, parse):
    page = parse(render_demo(one_seed))
    rows = result_rows(page)
    assert rows["All", "Teacher"] == ["70.5", "–", "–", "–", "–", "–"]
    assert rows["drive", "Extra-trees"] == ["64.6", "63.1", "–", "–", "–", "–"]
    assert rows["drive", "MiniRocket"] == [
        "not run: the library aeon is not installed: pip install 'mmkd-edge[rivals]'"
    ]
    assert rows["drive", "Labels only"] == ["61.2", "–", "–", "–", "–", "–"]
    assert rows["drive", "Distilled student"] == ["60.0", "–", "–", "\u22121.2 \u22124.0 to 1.5", "–", "–"]
    assert "One seed, so no standard deviation." in page.all("caption")[0].text
    assert "±" not in page.all("main")[0].text.replace("± One standard deviation", "")
    names = [node.attrs["aria-labelledby"] for node in page.all("section")]
    assert names == ["answer", "results", "confusion", "reproduce"]
    assert page.all("nav") == []  # for a few sections


def test_sections_stand_in_the_order_of_the_story_and_hold_the_figures_of_the_document(two_sensors, parse):
    page = parse(render_demo(two_sensors))
    links = [link.attrs["href"] for link in page.all("nav")[0].all("a")]
    names = [node.attrs["aria-labelledby"] for node in page.all("section")]
    assert links == [f"#{name}" for name in names[1:]]
    assert names == ["answer", "results", "confusion", "missing", "benchmark", "reproduce"]
    shown = [
        [[int(cell.text) for cell in row.all("td")] for row in table.all("tr")[1:]]
        for table in page.all("table", "confusion")
    ]
    students = two_sensors["students"]
    assert shown == [
        two_sensors["teacher"]["confusion"],
        *(students[name][network]["confusion"] for name in ("acc", "gyro") for network in ("baseline", "student")),
    ]
    bench = section(page, "benchmark")
    whole, networks = (cells(table) for table in bench.all("table", "compact"))  # no engine beside another
    assert whole == [["whole prediction", "0.127", "0.139", "0.191"]]
    assert networks[0] == ["the teacher", "0.487", "0.545", "0.833"]
    assert [row[0] for row in networks[1:]] == ["student of acc", "student of gyro"]
    for text in (
        "Networks alone in ONNX Runtime, one thread.",
        "The student of acc takes 4.3× less time than the teacher (4.1 to 4.5).",
        "23\u202f815",
        "12.3\u202fms",
        "0.913\u202fms",
        "61.4\u202fMB",
        "students/gyro.edge, ort, 1 thread",
    ):
        assert text in bench.text
    assert "governor" not in bench.text
    text = section(page, "reproduce").text
    for part in (
        "mmkd-demo --seeds 5 --out demo",
        "took 7 min 12 s",
        "seeds 0, 1, 2, 3, 4",
        two_sensors["dataset"]["sha256"],
        "seglearn 1.2.5, https://arxiv.org/abs/1802.01489",
        "BSD-3-Clause",
        "gyro gyro_x, gyro_y, gyro_z in g; 200 samples, 4.00\u202fs",
        "torch 2.9.0",
        "memory total_gb 8, swap_gb 0",
        "predictor = EdgePredictor.open('students/acc.edge')",
        "window = np.zeros(shape, dtype)",
    ):
        assert part in text
    missing = section(page, "missing").all("svg", "chart")
    assert [len(chart.all("path", "band")) for chart in missing] == [2, 2]
    student = [one(spread["mean"]) for spread in two_sensors["students"]["gyro"]["missing"]["student"]]
    assert f"Distilled student {' '.join(student)}." in missing[1].all("desc")[0].text
    # The gains of acc and gyro are 0.8 and 15.4 points.
    assert [item.text for item in page.all("ul", "key-figures")[0].all("li")] == [
        "75.2\u202f% accuracy with acc alone · all sensors 83.0\u202f%",
        "+8.1 points gained by distillation on average over 2 sensors · 95 % interval 5.9 to 10.5",
        "61.4\u202fk parameters · the teacher 1.25\u202fM",
        "127\u202fµs median of one whole prediction · by ort, the engine that open chooses",
    ]


def test_many_labels_are_told_by_their_largest_confusions(two_sensors, parse):
    labels = [f"class {index}" for index in range(30)]
    two_sensors["dataset"]["labels"] = labels
    matrix = [[0] * 30 for _ in labels]
    matrix[3][7], matrix[0][29], matrix[4][4] = 1412, 5, 9000
    for network in (
        two_sensors["teacher"],
        *(c[n] for c in two_sensors["students"].values() for n in ("baseline", "student")),
    ):
        network["confusion"] = matrix
    tables = section(parse(render_demo(two_sensors)), "confusion").all("table")
    assert len(tables) == 5
    assert cells(tables[0]) == [["1\u202f412", "class 3", "class 7"], ["5", "class 0", "class 29"]]


def test_windows_and_matrices_count_the_same_seeds(two_sensors, parse):
    two_sensors["dataset"]["windows"]["test"] = sum(map(sum, two_sensors["teacher"]["confusion"]))
    page = parse(render_demo(two_sensors))
    matrix = [int(cell.text) for row in page.all("table", "confusion")[0].all("tr")[1:] for cell in row.all("td")]
    assert f"{sum(matrix):,} to test of all seeds.".replace(",", "\u202f") in page.text
    assert "1\u202f338 to train and 445 to validate of seed 0" in page.text


def test_all_sensors_and_all_but_one_are_in_the_table_and_no_teacher_stands_for_one_sensor(five_sensors, parse):
    page = parse(render_demo(five_sensors))
    shown = {}
    for table in page.all("table", "subsets"):
        names = [head.text for head in table.all("th", "upright")]
        for row in table.all("tr")[1:]:
            cells = [*row.all("th"), *row.all("td", "upright")]
            used = [name for name, cell in zip(names, cells, strict=True) if cell.text == "there"]
            shown[frozenset(used)] = row.all("td", "number")[0].text
    expected = {frozenset(s["modalities"]): plus_minus(s["accuracy"]) for s in five_sensors["teacher"]["missing"]}
    assert shown == {used: score for used, score in expected.items() if len(used) in (4, 5)}


def test_timings_that_did_not_settle_are_owned_up_to(two_sensors):
    warning = "The timings were unstable: repeat the benchmark on an idle machine."
    assert warning not in render_demo(two_sensors)
    two_sensors["benchmark"]["stable"] = False
    assert warning in render_demo(two_sensors)


def test_a_machine_is_described_once_without_what_is_empty(two_sensors, parse):
    two_sensors["machine"] |= {"memory_mb": 15_999.5, "governors": [], "virtual": True, "board": None}
    page = parse(render_demo(two_sensors))
    assert [node.text for node in page.all("h3")].count("Machine") == 1
    facts = {
        row.all("dt")[0].text: row.all("dd")[0].text for row in section(page, "reproduce").all("div") if row.all("dt")
    }
    assert facts["memory mb"] == "15999.5"
    assert facts["virtual"] == "yes"
    assert not {"governors", "board"} & set(facts)


def test_the_page_says_that_only_validation_recommends(two_sensors, parse):
    note = "The recommendation uses validation only; test scores are for checking."
    for number, sensor in enumerate(two_sensors["students"].values()):
        sensor["student"] |= {"valid_score": {"mean": 0.8 - number / 10}, "chance": None}
        sensor["baseline"]["valid_score"] = {"mean": 0.5}
    assert note in section(parse(render_demo(two_sensors)), "results").text


def test_sizes_and_latencies_beside_a_committee_are_its_transformers(two_sensors, parse):
    two_sensors["teacher"]["members"] = ["transformer", "convolutions", "trees"]
    page = parse(render_demo(two_sensors))
    texts = [item.text for item in page.all("ul", "key-figures")[0].all("li")]
    assert texts[2] == "61.4\u202fk parameters · the teacher's transformer 1.25\u202fM"
    assert "takes 4.3× less time than the teacher's transformer" in section(page, "benchmark").text


def test_a_latency_whose_repeats_do_not_agree_is_no_difference(two_sensors, parse):
    for sensor in two_sensors["students"].values():
        sensor["latency_ratios"].update(min=0.95, max=1.2)
    text = section(parse(render_demo(two_sensors)), "benchmark").text
    assert "takes 4.3× less time than the teacher (0.95 to 1.2, not significant)." in text


def test_a_student_that_is_not_better_than_guessing_has_no_gain_and_no_gap_on_the_page(two_sensors, parse):
    for sensor in two_sensors["students"].values():
        sensor["student"]["chance"] = {"figure": 0.8, "low": 0.5, "high": 0.9, "is_better": False}
    page = parse(render_demo(two_sensors))
    assert len(section(page, "answer").all("p")) == 1
    figures = [item.text for item in page.all("ul", "key-figures")[0].all("li")]
    assert figures[0].endswith("· chance 80.0\u202f%")
    assert not any("by distillation" in text for text in figures)
    assert result_rows(page)["acc", "Distilled student"][4] == "–"
    assert (
        "Chance, the better of a constant and a uniform answer, has accuracy 80.0\u202f%."
        in section(page, "results").text
    )


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ({"mean": 5.0, "low": 0.5, "high": 9.0}, "50"),
        ({"mean": 5.0, "low": -0.5, "high": 9.0}, "not measurable"),
        (None, "–"),  # a document of an earlier release does not say how certain its gap is
    ],
)
def test_the_gap_recovered_is_shown_where_the_gap_is_certain(two_sensors, parse, gap, expected):
    two_sensors["students"]["acc"] |= {"gap_points": gap, "gap_recovered": 0.5}
    assert result_rows(parse(render_demo(two_sensors)))["acc", "Distilled student"][4] == expected


def test_a_title_speaks_of_a_failing_sensor_where_one_failed(two_sensors, five_sensors, parse):
    assert section(parse(render_demo(five_sensors)), "missing").all("h2")[0].text == "When a sensor fails"
    page = parse(render_demo(two_sensors))
    assert section(page, "missing").all("h2")[0].text == "When samples are missing"
    assert [heading.text for heading in section(page, "missing").all("h3")] == ["One sensor with missing samples"]
    assert "fails" not in page.text


def colours(style):
    """The custom properties of the light and of the dark scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[:2]
    found = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    return found[0], {**found[0], **found[1]}


def mixed(over, share, under):
    pairs = zip(bytes.fromhex(over[1:]), bytes.fromhex(under[1:]), strict=True)
    return [(share * top + (1 - share) * below) / 255 for top, below in pairs]


def contrast(one_colour, other):
    """WCAG 2.2, definitions of relative luminance and contrast ratio."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one_colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_figures_contrast_in_light_and_dark(scheme, two_sensors, parse):
    style = parse(render_demo(two_sensors)).all("style")[0].text
    assert "@media screen and (prefers-color-scheme: dark)" in style
    colour = colours(style)[scheme]
    for ground in ("paper", "panel"):
        for ink in ("ink", "muted", "teacher", "student", "baseline", "rival"):
            ratio = contrast(mixed(colour[ink], 1, colour[ink]), mixed(colour[ground], 1, colour[ground]))
            assert ratio >= 4.5, (ink, ground, ratio)
    for role in ("teacher", "student", "baseline"):  # the strongest cell of a confusion matrix holds 45 % of its colour
        ratio = contrast(mixed(colour["ink"], 1, colour["ink"]), mixed(colour[role], 0.45, colour["panel"]))
        assert ratio >= 4.5, (role, ratio)


def test_equal_documents_give_equal_bytes_in_another_process(two_sensors, tmp_path):
    html = render_demo(two_sensors)
    (tmp_path / "document.py").write_text(f"document = {two_sensors!r}\n")
    code = (
        "from document import document; from mmkd_app.pages.page import write_page; "
        "from tests.app.pages.rendered import render_demo; import sys;"
        "write_page(sys.argv[1], render_demo(document))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "page.html"], check=True, env=environment)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html


def test_the_package_is_thin_until_a_page_is_made():
    code = (
        "import sys; import mmkd_documents.demo; "
        "loaded = {name.split('.')[0] for name in sys.modules}; "
        "print(sorted(loaded & {'jinja2', 'matplotlib', 'numpy', 'torch', 'mmkd_edge', 'mmkd_models', 'mmkd_bench'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_a_page_replaces_an_older_one_as_a_whole_or_not_at_all(tmp_path):
    target, held = tmp_path / "report.html", tmp_path / "held.html"
    target.write_text("old")
    os.link(target, held)  # stands for a reader that has the older file open
    write_page(target, "new – page\n")
    with pytest.raises(UnicodeEncodeError):
        write_page(target, "half \ud800")
    assert (held.read_text(), target.read_text(encoding="utf-8")) == ("old", "new – page\n")
    assert sorted(tmp_path.iterdir()) == [held, target]


def test_a_page_that_cannot_be_written_says_why_and_leaves_no_rest(tmp_path):
    target = tmp_path / "absent" / "report.html"
    assert said(PageError, lambda: write_page(target, "page")) == (
        f"page '{target}': expected an existing folder, got '{target.parent}'; create it first"
    )
    target.mkdir(parents=True)
    (target / "kept").write_text("kept")
    assert said(PageError, lambda: write_page(target, "page")) == (
        f"page '{target}': expected a file that can be written, got 'Is a directory'; "
        "free the space, or choose another path"
    )
    assert (target / "kept").read_text() == "kept"
    assert list(target.parent.iterdir()) == [target]


def test_unknown_keys_are_left_alone(two_sensors):
    grown = two_sensors | {"later": {"x": 1}, "teacher": two_sensors["teacher"] | {"energy_mj": 3.0}}
    assert render_demo(grown) == render_demo(two_sensors)


def test_a_document_that_mmkd_demo_wrote_is_read_and_written_as_it_was():
    written = json.loads((Path(__file__).parents[3] / "docs" / "results" / "watch_exercises-2groups.json").read_bytes())
    assert json.loads(msgspec.json.encode(read_demo(written))) == written
