/* `make emulate`: qemu's Cortex-M7 (mps2-an500) runs a program, and counts the instructions and the stack of a window. */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "student.h"

enum { STACK_WORDS = 16384, UNUSED = 0x5AFE57AC };
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
    for (uint32_t *word = (uint32_t *)answers - STACK_WORDS; word < (uint32_t *)answers - 16; word++) *word = UNUSED;
    systick[1] = 0xFFFFFF, systick[2] = 0, systick[0] = 5; /* count down from 2^24 - 1 with the processor's clock */
    student_predict((const float *)student_windows, answers, 0);
    uint32_t ticks = 0xFFFFFF - systick[2];
    uint32_t *deepest = (uint32_t *)answers - STACK_WORDS;
    while (*deepest == UNUSED) deepest++;
    printf("%lu instructions and %lu bytes of stack a window\n", (unsigned long)ticks * INSTRUCTIONS_A_TICK,
           (unsigned long)((char *)answers - (char *)deepest));
    _exit(failed);
}
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, (void *)reset};
