/* A sensor's loop: an interrupt puts samples into a ring, the loop answers the newest window every HOP samples.
 *
 * On a computer samples are lines of stdin, nan where missing: make loop && ./loop < samples.csv. On a board:
 * - call put_sample from the sensor's interrupt, and sleep in get_sample until it did, with __WFI();
 * - turn the FPU on before main, as start.c does; CMSIS does it in SystemInit if __FPU_USED;
 * - `make emulate` prints the stack that a window takes; printf of numbers takes about 1 kB more.
 */
#include <stdio.h>
#include <string.h>

#include "student.h"

enum { SAMPLES = STUDENT_${recorded_}SAMPLES, CHANNELS = STUDENT_${recorded_}CHANNELS };
#ifndef HOP
#define HOP (SAMPLES / 2) /* samples between two answers, at most SAMPLES */
#endif
#ifndef LEVEL
#define LEVEL STUDENT_LEVEL
#endif
enum { RING = SAMPLES + HOP + 1 }; /* HOP samples may come while a window is answered */

static float ring[RING][CHANNELS], window[SAMPLES][CHANNELS];
static volatile unsigned next, oldest, lost; /* the interrupt alone writes `next`, the loop alone `oldest`: no lock */

static void put_sample(const float *sample)
{
    unsigned after = (next + 1) % RING;
    if (after == oldest) {
        lost++; /* answers take longer than HOP samples: choose a larger HOP */
        return;
    }
    memcpy(ring[next], sample, sizeof ring[next]);
    next = after;
}

static int get_sample(void)
{
    float sample[CHANNELS];
    for (int c = 0; c < CHANNELS; c++)
        if (scanf(c ? " ,%f" : "%f", &sample[c]) != 1) return 0;
    put_sample(sample);
    return 1;
}

int main(void)
{
    float answers[STUDENT_OUTPUTS];
    while (get_sample()) {
        if ((next + RING - oldest) % RING < SAMPLES) continue;
        for (unsigned t = 0; t < SAMPLES; t++) memcpy(window[t], ring[(oldest + t) % RING], sizeof window[t]);
        oldest = (oldest + HOP) % RING;
        int best = student_predict${_recorded}(window[0], answers, NULL);
        const char *status = best < 0 ? "invalid" : student_is_unknown(LEVEL) ? "unknown" : "ok";
        printf("%s %s %.3f\n", status, best < 0 ? "" : student_labels[best], best < 0 ? 0.0 : (double)answers[best]);
    }
    return lost != 0;
}
