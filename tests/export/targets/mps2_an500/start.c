/* An emulated Cortex-M7 with ARM semihosting: memory, stack, and main. */
#include <stdint.h>
#include <unistd.h>
extern uint32_t data_from[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
extern int main(void);
extern void initialise_monitor_handles(void);
void reset(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* the FPU */
    for (uint32_t *to = data_start, *from = data_from; to < data_end;) *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    initialise_monitor_handles();
    _exit(main());
}
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, (void *)reset};
