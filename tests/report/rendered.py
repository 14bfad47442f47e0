"""Pages of documents as JSON has them."""

import msgspec

from mmkd_report.pages import adaptation, bench, data, demo, export, judging, normal_sensors, sensors, study, variants
from mmkd_report.schema.adaptation import AdaptationDocument
from mmkd_report.schema.bench import read_bench
from mmkd_report.schema.data import DataReport
from mmkd_report.schema.demo import DemoDocument
from mmkd_report.schema.export import ExportDocument
from mmkd_report.schema.judging import JudgingDocument, NormalSensorsDocument, SensorsDocument
from mmkd_report.schema.study import StudyDocument
from mmkd_report.schema.variants import VariantsDocument


def typed(kind):
    return lambda document: msgspec.convert(document, kind)


read_demo, read_study, read_judging = typed(DemoDocument), typed(StudyDocument), typed(JudgingDocument)


def render_demo(document):
    return demo.render_demo(read_demo(document))


def render_study(document):
    return study.render_study(read_study(document))


def render_judging(document):
    return judging.render_judging(read_judging(document))


def render_export(document):
    return export.render_export(msgspec.convert(document, ExportDocument))


def render_sensors(document):
    return sensors.render_sensors(msgspec.convert(document, SensorsDocument))


def render_normal_sensors(document):
    return normal_sensors.render_normal_sensors(msgspec.convert(document, NormalSensorsDocument))


def render_variants(document):
    return variants.render_variants(msgspec.convert(document, VariantsDocument))


def render_adaptation(document):
    return adaptation.render_adaptation(msgspec.convert(document, AdaptationDocument))


def render_data_report(document):
    return data.render_data_report(msgspec.convert(document, DataReport))


def render_bench(documents):
    return bench.render_bench([read_bench(document) for document in documents])
