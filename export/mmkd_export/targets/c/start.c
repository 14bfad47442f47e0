/* `make emulate`: qemu's Cortex-M7 (mps2-an500) runs the self-test and counts the instructions of one window. */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "student.h"

enum { INSTRUCTIONS_A_TICK = 40 }; /* at 25 MHz, with one instruction a nanosecond: -icount shift=0 */
extern const uint32_t student_windows[];
extern uint32_t data_from[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
extern int main(void);
extern void initialise_monitor_handles(void);
static volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010; /* control, reload value, current value */

void reset(void)
{
    float answers[STUDENT_OUTPUTS];
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* the FPU */
    for (uint32_t *to = data_start, *from = data_from; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    initialise_monitor_handles();
    int failed = main();
    systick[1] = 0xFFFFFF, systick[2] = 0, systick[0] = 5; /* count down from 2^24 - 1 with the processor's clock */
    student_predict((const float *)student_windows, answers, 0);
    uint32_t ticks = 0xFFFFFF - systick[2];
    printf("%lu instructions a window\n", (unsigned long)ticks * INSTRUCTIONS_A_TICK);
    _exit(failed);
}
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, (void *)reset};
