"""mmkd-edge: single-modality inference for factory applications."""
