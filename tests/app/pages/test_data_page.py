"""The page of a dataset: findings, sensors and figures of the document, and its safety."""

import re

import pytest

from tests.app.pages.rendered import render_data_report


def probe(asked, modality, score):
    ends = {"low": score - 0.05, "high": score + 0.05}
    return {"target": asked, "modality": modality, "score": score, "chance": 0.5, "windows": 60, **ends} | {
        "is_better": score > 0.55
    }


@pytest.fixture
def document():
    """Two sensors, one finding of each weight, a window with a gap."""
    split = {"windows": 20, "unlabelled": 0, "groups": 3, "largest_group": 0.4, "classes": {"ok": 12, "worn": 8}}
    channel = {"modality": "vib", "channel": "x", "unit": "g", "rate_hz": 10.0, "samples": 4, "low": -1.0, "high": 2.0}
    more = {"mean": 0.5, "std": 0.25, "missing": {"train": 0.125, "valid": 0.0, "test": 0.0}, "flat": 0.0}
    example = {"modality": "vib", "label": "worn", "split": "valid", "window": 3, "step": 1, "duration_s": 0.4}
    return {
        "format_version": 1,
        "name": "line 3",
        "sha256": "a" * 64,
        "kind": "classification",
        "labels": ["ok", "worn"],
        "windows": 60,
        "looked_at": 60,
        "groups": 9,
        "campaign": None,
        "findings": [
            {"kind": "leak", "level": "problem", "sentence": "group 'a' is twice there", "advice": "ask who it is"},
            {"kind": "labels", "level": "note", "sentence": "3 labels contradict", "advice": "look at them"},
        ],
        "not_judged": ["wrong labels: only classes are checked"],
        "splits": [split | {"split": name} for name in ("train", "valid", "test")],
        "channels": [channel | more | {"at_limit": 0.0, "is_continuous": True}],
        "examples": [example | {"missing": 0.25, "channels": ["x"], "values": [[0.0, 1.0, None, 2.0]]}],
        "probes": [
            *(probe("class", modality, score) for modality, score in ((None, 0.9), ("vib", 0.8), ("temp", 0.52))),
            probe("split", None, 0.5),
        ],
        "label_suspects": [],
        "to_label": [],
    }


def test_the_answer_counts_findings_names_the_best_sensor_and_leaves_out_what_has_no_figures(document):
    page = render_data_report(document)
    assert "1 warning that would make scores or students wrong, 1 other warning." in page
    assert " windows</b> of " in page
    assert "The best single sensor is vib: extra-trees reach 80.0\u202f% balanced accuracy" in page
    close = [*document["probes"][:2], probe("class", "temp", 0.76)]
    assert (
        "No clear winner: vib 80.0\u202f% (99 % interval 75.0 to 85.0), temp 76.0\u202f% balanced accuracy, with all "
        "sensors 90.0\u202f% (chance 50.0\u202f%)."
    ) in render_data_report(document | {"probes": close})
    assert "Group &#39;a&#39; is twice there.</span> <em>Ask who it is.</em>" in page
    assert "Not judged: Wrong labels: only classes are checked." in page
    (path,) = [line for line in page.splitlines() if 'class="line"' in line]
    assert path.count("M") == 2
    assert "valid window 3, 25.0 % missing" in page
    assert 'id="labels"' not in render_data_report(document)
    page = render_data_report(document | {"findings": []})
    assert "No problems were found." in page
    assert "Copies, groups under two names, gaps that reveal the class" in page


def test_a_recording_at_another_level_is_drawn_beside_the_others(document):
    assert 'id="levels"' not in render_data_report(document)
    picture = {"modality": "vib", "channel": "x", "unit": "g", "recording": "M3/vib.csv", "other": "M1/vib.csv (train)"}
    picture |= {"duration_s": 0.4, "values": [1000.0, -1000.0, None, 900.0], "other_values": [1.0, -1.0, 0.5, 0.0]}
    page = render_data_report(
        document | {"levels": [picture | {"rms": [900.0, 1000.0], "others_low": 0.5, "others_high": 2.0}]}
    )
    section = page[page.index('id="levels"') : page.index('id="sensors"')]
    assert "vib x, g, in M3/vib.csv" in section
    assert section.count("<svg") == 3
    assert section.count('class="band"') == 1
    assert (
        "RMS of the 2 windows of M3/vib.csv: 900 to 1\u202f000; 90 % of the others are from 0.500 to 2.00." in section
    )


def test_percent_signs_of_sentences_are_set_as_those_of_figures(document):
    one = document["findings"][0] | {"sentence": "7% of 3.5% move", "advice": "keep 90%"}
    page = render_data_report(document | {"findings": [one], "not_judged": ["it agrees with 73% of them"]})
    assert "7\u202f% of 3.5\u202f% move.</span> <em>Keep 90\u202f%.</em>" in page
    assert "Not judged: It agrees with 73\u202f% of them." in page


def test_every_channel_has_an_axis_of_its_own_that_its_windows_share(document):
    names = [f"c{number}" for number in range(6)]
    one = document["examples"][0] | {"channels": names}
    lines = [[[scale * value for value in (0.0, 1.0, 2.0, 2.0)] for scale in (1, 1000, 1, 1, 1, 7)] for _ in range(2)]
    lines[1][1] = [3000.0] * 4
    examples = [one | {"label": label, "values": values} for label, values in zip(("ok", "worn"), lines, strict=True)]
    page = render_data_report(document | {"examples": examples})
    section = page[page.index('id="signals"') : page.index('id="balance"')]
    shown, folded = section.split("<details", 1)
    assert [f"vib {name}, g" in shown for name in names] == [True] * 4 + [False] * 2
    assert "2 more channels of vib" in folded
    charts = section.split("<svg")[1:]
    assert len(charts) == 12
    tops = [re.findall(r'class="tick"[^>]*text-anchor="end"[^>]*>([^<]+)<', chart)[-1] for chart in charts]
    assert tops == ["2", "2", "3000", "3000", "2", "2", "2", "2", "2", "2", "15", "15"]


def test_like_findings_are_one(document):
    like = [
        {"kind": "unit", "level": "problem", "sentence": f"M{number} is 1,000 times as large", "advice": "convert it"}
        for number in range(6)
    ]
    page = render_data_report(document | {"findings": [*like, *document["findings"]]})
    assert "2 warnings that would make scores or students wrong, 1 other warning." in page
    assert page.count("Convert it.") == 1
    assert "M0 is 1,000 times as large. M1 is" in page
    assert "M3 is 1,000 times as large. 2 more warnings like these." in page
    assert "M4 is" not in page


def test_all_labels_to_look_at_are_not_called_the_surest_of_them(document):
    one = {"split": "valid", "group": "g", "label": "ok", "likely": "worn"}
    suspects = [one | {"window": number, "likely_probability": 0.8, "label_probability": 0.05} for number in range(51)]
    page = render_data_report(document | {"label_suspects": suspects[:2]})
    assert "the largest majority for another class first.</caption>" in page
    assert "valid 0" in page
    place = "line1/0.csv 2026-03-01T10:00:00Z to 10:00:32Z (valid)"
    page = render_data_report(document | {"label_suspects": [suspects[0] | {"place": place}]})
    assert (place in page, "valid 0" in page) == (True, False)
    page = render_data_report(document | {"label_suspects": suspects})
    assert "class first. These are the first 50 of 51.</caption>" in page
