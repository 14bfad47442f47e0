/* Compares recorded windows with the answers of the checkpoint. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "student.h"

enum { WINDOWS = $count };
extern const uint32_t student_windows[];
static const uint32_t expected[] = {$expected};
static const float tolerance = ${tolerance}f;

int main(void)
{
    float worst = 0, answers[STUDENT_OUTPUTS];
    for (int n = 0; n < WINDOWS; n++) {
        student_predict((const float *)student_windows + n * STUDENT_SAMPLES * STUDENT_CHANNELS, answers, 0);
        for (int k = 0; k < STUDENT_OUTPUTS; k++) {
            float error = fabsf(answers[k] - ((const float *)expected)[n * STUDENT_OUTPUTS + k]);
            worst = error > worst || error != error ? error : worst;
        }
    }
    int passed = worst <= tolerance;
    printf("%d windows, largest error %d of at most %d millionths: %s\n", WINDOWS, (int)(worst * 1e6f),
           (int)(tolerance * 1e6f), passed ? "passed" : "FAILED");
    return !passed;
}
