#include <stdint.h>

const uint32_t student_windows[] = {$windows};
