"""The export page as a browser gets it: its figures against the document's, its safety, and its file."""

import pytest

from tests.app.pages.conftest import cells, section
from tests.app.pages.rendered import render_export


def parity(largest):
    tensor = {"max_abs_error": largest, "mean_abs_error": largest / 4}
    return {
        "windows": 40,
        "logits": tensor,
        "probabilities": tensor | {"max_abs_error": largest / 2},
        "label_agreement": 1.0,
    }


def gate(*, drop=0.0, agreement=1.0):
    return {
        "windows": 400,
        "labelled": 380,
        "metric": "balanced_accuracy",
        "drop_points": drop,
        "allowed_drop_points": 0.5,
        "label_agreement": agreement,
        "least_agreement": 0.99,
        "finite": True,
    }


def artifact(precision, *, size, score, **more):
    return {
        "file": f"acc/model.{precision}.onnx",
        "format": "onnx",
        "precision": precision,
        "opset": 20,
        "size_bytes": size,
        "parity": parity(2e-6 if precision == "fp32" else 0.02),
        "parity_with_gaps": parity(3e-6 if precision == "fp32" else 0.03),
        "scores": {"accuracy": score - 0.01, "balanced_accuracy": score, "macro_f1": score - 0.02},
        "gate": None if precision == "fp32" else gate(),
        "backend": "onnxruntime 1.2",
        "float_layers": {},
        "attempts": [],
        "sensitivity": [],
    } | more


def attempt(remedy, method, found):
    return {"remedy": remedy, "method": method, "layers": 4, "gate": found}


def quantised():
    """What an INT8 artifact has beside the others: its second attempt passed."""
    return {
        "gate": gate(drop=0.25),
        "float_layers": {"encoder.stem.0": "the first layer: its range is that of the sensor's glitches"},
        "attempts": [
            attempt("all but the first layer", "minmax", gate(drop=2.5, agreement=0.9)),
            attempt("ranges by percentile", "percentile", gate(drop=0.25)),
        ],
        "sensitivity": [
            {"layer": "encoder.blocks.0.up", "divergence": 4e-6},
            {"layer": "encoder.stem.0", "divergence": 1e-6},
        ],
    }


@pytest.fixture
def three():
    """fp32, fp16 and int8; int8 needed a remedy."""
    return {
        "bundle": "student.edge",
        "size_bytes": 1_470_000,
        "sha256": "b" * 64,
        "report": {
            "format_version": 1,
            "model_id": "line3-acc-base",
            "platform": "cpu-x86",
            "student": {
                "checkpoint_sha256": "c" * 64,
                "modality": "acc",
                "labels": ["good", "worn", "broken"],
                "preset": "base",
                "parameters": 2_590_000,
                "mflops": 134.2,
                "nodes": 250,
                "dataset": "line 3",
                "dataset_sha256": "d" * 64,
                "teacher_sha256": "e" * 64,
                "metric": "balanced_accuracy",
                "score": 0.81,
                "trained_with": {"python": "3.11.7"},
            },
            "windows": {
                "source": "validation windows carried by the checkpoint",
                "count": 40,
                "judged_by": "the test split of line 3",
                "judging": 400,
                "labelled": 380,
                "caution": None,
            },
            "artifacts": [
                artifact("fp32", size=461_162, score=0.80),
                artifact("fp16", size=338_474, score=0.80),
                artifact("int8", size=334_031, score=0.7975, **quantised()),
            ],
            "left_out": [],
            "tools": {"onnxruntime": "1.32.0"},
        },
        "engines": [],
    }


@pytest.fixture
def plain(three):
    """fp32 alone."""
    report = three["report"]
    report["artifacts"] = [artifact("fp32", size=461_162, score=0.80)]
    report["windows"]["caution"] = "20 judging windows prove little"
    return three


@pytest.fixture
def rejected(three):
    """auto tried int8, whose gate no remedy passed, and fp16, too."""
    report = three["report"]
    fp32, fp16, int8 = report["artifacts"]
    int8["gate"] = gate(drop=3.0, agreement=0.91)
    int8["attempts"][-1]["gate"] = int8["gate"]
    report["artifacts"] = [fp32]
    report["left_out"] = [
        {"precision": "int8", "reason": "int8 graph: no remedy passed the gate; more\n  - detail", "artifact": int8},
        {"precision": "fp16", "reason": "fp16 graph: labels agree on 90 %; more", "artifact": fp16},
    ]
    return three


def test_the_answer_and_the_tables_hold_the_figures_of_the_document(three, parse):
    page = parse(render_export(three))
    agreed = "the checkpoint's label on 100\u202f% of 400 windows)."
    assert [node.text for node in section(page, "answer").all("p")] == [
        f"fp16 passed its gate (0.00 points of balanced accuracy lost, {agreed}",
        f"int8 passed its gate (0.25 points of balanced accuracy lost, {agreed}",
        "The fp32 graph gives the checkpoint's answers within 2e\u221206 on 40 real windows.",
    ]
    assert [item.text for item in page.all("ul", "key-figures")[0].all("li")] == [
        "80.0\u202f% balanced accuracy of fp32 on 380 judging windows",
        "334\u202fkB the smallest artifact, int8; the whole bundle 1.47\u202fMB",
        "2.59\u202fM parameters (base), 134\u202fMFLOP a window",
    ]
    table = page.all("table", "artifacts")[0]
    heads = [head.text for head in table.all("tr")[0].all("th")]
    scores = "Accuracy, %", "Balanced, %", "Macro-F1, %", "Agreement, %"
    assert heads == ["Artifact", "Size", *scores, "Backend", "Verdict"]
    told = "onnxruntime 1.2", "in the bundle"
    assert cells(table) == [
        ["fp32 acc/model.fp32.onnx", "461\u202fkB", "79.00", "80.00", "78.00", "100.00", *told],
        ["fp16 acc/model.fp16.onnx", "338\u202fkB", "79.00", "80.00", "78.00", "100.00", *told],
        ["int8 acc/model.int8.onnx", "334\u202fkB", "78.75", "79.75", "77.75", "100.00", *told],
    ]
    rows = cells(section(page, "parity").all("table")[0])
    assert rows[0] == ["fp32", "as recorded", "logits", "2e\u221206", "5e\u221207"]
    assert rows[3] == ["fp32", "with gaps", "probabilities", "1.5e\u221206", "7.5e\u221207"]
    assert rows[8] == ["int8", "as recorded", "logits", "0.02", "0.005"]
    assert len(rows) == 12
    tried = section(page, "tried")
    assert cells(tried.all("table")[0]) == [
        ["all but the first layer", "largest value", "4", "2.50", "90.00", "not passed"],
        ["ranges by percentile", "99.99th percentile", "4", "0.25", "100.00", "passed"],
    ]
    assert "the first layer: its range is that of the sensor's glitches" in tried.text


def test_what_too_few_windows_judged_is_called_unjudged(three, parse):
    three["report"]["artifacts"][1]["gate"]["unjudged"] = True
    page = parse(render_export(three))
    assert section(page, "answer").all("p")[0].text.startswith("fp16 is unjudged: too few windows (0.00 points of ")
    assert cells(page.all("table", "artifacts")[0])[1][-1] == "in the bundle, unjudged"


def test_what_was_rejected_is_told_with_its_reason(rejected, parse):
    page = parse(render_export(rejected))
    assert "int8 was left out: int8 graph: no remedy passed the gate." in section(page, "answer").text
    verdicts = [row[-1] for row in cells(page.all("table", "artifacts")[0])]
    assert verdicts == ["in the bundle", "gate not passed", "left out"]


def test_an_export_of_fp32_alone_shows_only_what_was_measured(plain, parse):
    page = parse(render_export(plain))
    names = [node.attrs["aria-labelledby"] for node in page.all("section")]
    assert names == ["answer", "artifacts", "parity", "origin"]
    assert page.all("h1")[0].text == "Does line3-acc-base answer as it was trained?"
    assert page.all("p", "caution")[0].text == "20 judging windows prove little."
    plain["report"]["student"]["further_teachers_sha256"] = ["f" * 64]
    assert f"{'e' * 64}, {'f' * 64}" in render_export(plain)
    plain["report"]["windows"]["synthetic"] = True
    assert " answers within 2e\u221206 on 40 synthetic windows." in render_export(plain)
    words = ("model_id", "bundle_sha256", "artifact", "onnx_sha256", "engine", "engine_sha256", "platform", "key")
    facts = {"device": None, "workspace_bytes": 1 << 28, "strongly_typed": True, "tf32": False, "shapes": {}}
    shown = {"precision": "fp16", "size_bytes": 912_000, "library": "tensorrt", "library_version": "10.3.0"}
    sidecar = dict.fromkeys((*words, "architecture", "layers"), "word") | facts | shown
    plain["engines"] = [{"path": "student.fp16.engine", "sidecar": sidecar}]
    table = section(parse(render_export(plain)), "artifacts").all("table", "compact")[0]
    assert cells(table) == [["student.fp16.engine", "fp16", "912\u202fkB", "tensorrt 10.3.0"]]


def test_figures_that_json_lacks_are_left_out(three, parse):
    int8 = three["report"]["artifacts"][2]
    int8["parity"]["logits"] = {"max_abs_error": None, "mean_abs_error": None}
    int8["sensitivity"][0]["divergence"] = None
    int8["scores"] = None
    rows = cells(section(parse(render_export(three)), "parity").all("table")[0])
    assert rows[8] == ["int8", "as recorded", "logits", "–", "–"]


def test_confidence_has_a_section_with_its_figures(plain, parse):
    assert "confidence" not in render_export(plain)
    level = {"error_level": 0.05, "least_probability": 0.1, "covered": 1230, "coverage": 0.9609, "low": 0.912}
    sets = {"high": 0.9834, "mean_set_size": 1.547, "single_fraction": 0.555, "single_accuracy": None, "by_group": {}}
    plain["report"]["artifacts"][0]["confidence"] = {
        "temperature": 0.734,
        "calibrated_by": 128,
        "windows": 1280,
        "before": {"calibration_error": 0.0851, "log_loss": 0.518},
        "after": {"calibration_error": 0.0724, "log_loss": 0.4926},
        "coverages": [level | sets],
    }
    found = section(parse(render_export(plain)), "confidence")
    assert found.all("caption")[0].text == (
        "Temperature 0.73 from 128 windows. On 1\u202f280 others: calibration error 0.085 without and 0.072 with it, "
        "log loss 0.518 and 0.493."
    )
    assert cells(found.all("table")[0]) == [["5.0", "96.1", "91.2 to 98.3", "1.55", "55.5", "–"]]
    assert "new ones may be covered less" not in found.text  # who judged is not who calibrated
    plain["report"]["windows"]["judged_by"] = plain["report"]["windows"]["source"]
    assert "new ones may be covered less" in render_export(plain)
