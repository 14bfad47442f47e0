/* SHA-256 of the first 0, 9, 18 ... 999 of 1,000 bytes, in hexadecimal. */
#include <stdio.h>

#include "bundle.h"

int main(void)
{
    static unsigned char data[1000];
    char text[65];
    for (int i = 0; i < 1000; i++) data[i] = (unsigned char)(i * 7);
    for (int i = 0; i < 1000; i += 9) {
        mmkd_sha256_text(data, (size_t)i, text);
        puts(text);
    }
    return 0;
}
