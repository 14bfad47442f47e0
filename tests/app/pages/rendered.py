"""Pages of documents as JSON has them."""

import msgspec

from mmkd_app.pages import adaptation, bench, data, demo, export, judging, normal_sensors, sensors, study, variants
from mmkd_documents.adaptation import AdaptationDocument
from mmkd_documents.bench import read_bench
from mmkd_documents.data import DataReport
from mmkd_documents.demo import DemoDocument
from mmkd_documents.export import ExportDocument
from mmkd_documents.judging import JudgingDocument, NormalSensorsDocument, SensorsDocument
from mmkd_documents.study import StudyDocument
from mmkd_documents.variants import VariantsDocument


def typed(kind):
    return lambda document: msgspec.convert(document, kind)


def rendered(render, read):
    return lambda document: render(read(document))


read_demo, read_study, read_judging = typed(DemoDocument), typed(StudyDocument), typed(JudgingDocument)
render_demo = rendered(demo.render_demo, read_demo)
render_study = rendered(study.render_study, read_study)
render_judging = rendered(judging.render_judging, read_judging)
render_export = rendered(export.render_export, typed(ExportDocument))
render_sensors = rendered(sensors.render_sensors, typed(SensorsDocument))
render_normal_sensors = rendered(normal_sensors.render_normal_sensors, typed(NormalSensorsDocument))
render_variants = rendered(variants.render_variants, typed(VariantsDocument))
render_adaptation = rendered(adaptation.render_adaptation, typed(AdaptationDocument))
render_data_report = rendered(data.render_data_report, typed(DataReport))


def render_bench(documents):
    return bench.render_bench([read_bench(document) for document in documents])
