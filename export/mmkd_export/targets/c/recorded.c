
int student_predict_recorded(const float *recorded, float *answers, float *novelty)
{
    static float window[STUDENT_SAMPLES * STUDENT_CHANNELS];
    if (!open_student()) return -1;
    mmkd_derive(&model, recorded, window);
    return student_predict(window, answers, novelty);
}
