"""One fair comparison of teacher, baseline, student and rivals, over folds."""
