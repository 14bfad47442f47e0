"""Networks: one encoder per modality, fusion over modalities, teacher, student."""
