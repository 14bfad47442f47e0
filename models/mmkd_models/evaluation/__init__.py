"""What a model is worth: metrics, rivals, missing modalities."""
