"""Students that are computed and not trained step by step: ridge regression on convolutional features, and hybrids."""
