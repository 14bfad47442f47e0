#include <stdint.h>

const uint32_t student_tensors[] __attribute__((aligned(64))) = {$tensors};
