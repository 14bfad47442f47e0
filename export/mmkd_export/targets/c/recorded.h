
enum { STUDENT_RECORDED_SAMPLES = $recorded_samples, STUDENT_RECORDED_CHANNELS = $recorded_channels };

/* Answer for the newest samples of $recorded, (STUDENT_RECORDED_SAMPLES, STUDENT_RECORDED_CHANNELS), at $recorded_rate Hz: the window is
 * derived from them as in training. */
int student_predict_recorded(const float *recorded, float *answers, float *novelty);
