/* Digests and signatures: SHA-256 (FIPS 180-4, section 6.2), by the processor's instructions where it has them, and
 * Ed25519 (RFC 8032) by Monocypher. */
#if defined(__linux__)
#define _GNU_SOURCE
#include <sys/auxv.h>
#endif
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../third_party/monocypher-ed25519.h"
#include "bundle.h"

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

static void hash_plainly(uint32_t hash[8], const unsigned char *data, size_t blocks)
{
    for (; blocks; blocks--) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++, data += 4)
            w[i] = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
        }
        uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4], f = hash[5], g = hash[6], h = hash[7];
        for (int i = 0; i < 64; i++) {
            uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + w[i];
            uint32_t second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
        }
        const uint32_t after[8] = {a, b, c, d, e, f, g, h};
        for (int i = 0; i < 8; i++) hash[i] += after[i];
    }
}

#if defined(__x86_64__) && !defined(MMKD_PLAIN_SHA256)
static int has_instructions(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 19)) return 0; /* SSE4.1 */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}

__attribute__((target("sha,sse4.1"))) static void hash_by_instructions(uint32_t hash[8], const unsigned char *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    /* The instructions keep the state as (A, B, E, F) and (C, D, G, H), the highest first. */
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)hash);
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(hash + 4));
    low = _mm_shuffle_epi32(low, 0xb1), high = _mm_shuffle_epi32(high, 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
    for (; blocks; blocks--, data += 64) {
        __m128i before_abef = abef, before_cdgh = cdgh, w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i < 4) {
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(data + 16 * i)), big_endian);
            } else {
                __m128i last = w[(i + 3) % 4], sum = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);
                sum = _mm_add_epi32(sum, _mm_alignr_epi8(last, w[(i + 2) % 4], 4));
                w[i % 4] = _mm_sha256msg2_epu32(sum, last);
            }
            __m128i rounds = _mm_add_epi32(w[i % 4], _mm_loadu_si128((const __m128i *)(const void *)(constants + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, rounds);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(rounds, 0x0e));
        }
        abef = _mm_add_epi32(abef, before_abef), cdgh = _mm_add_epi32(cdgh, before_cdgh);
    }
    low = _mm_shuffle_epi32(abef, 0x1b), high = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)hash, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(hash + 4), _mm_alignr_epi8(high, low, 8));
}
#elif defined(__aarch64__) && defined(__linux__) && !defined(MMKD_PLAIN_SHA256)
static int has_instructions(void) { return (getauxval(AT_HWCAP) & 1ul << 6) != 0; } /* HWCAP_SHA2 */

#if defined(__clang__)
__attribute__((target("sha2")))
#else
__attribute__((target("+crypto")))
#endif
static void hash_by_instructions(uint32_t hash[8], const unsigned char *data, size_t blocks)
{
    uint32x4_t abcd = vld1q_u32(hash), efgh = vld1q_u32(hash + 4);
    for (; blocks; blocks--, data += 64) {
        uint32x4_t before_abcd = abcd, before_efgh = efgh, w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i < 4) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
            else w[i % 4] = vsha256su1q_u32(vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]), w[(i + 2) % 4], w[(i + 3) % 4]);
            uint32x4_t rounds = vaddq_u32(w[i % 4], vld1q_u32(constants + 4 * i)), old = abcd;
            abcd = vsha256hq_u32(abcd, efgh, rounds);
            efgh = vsha256h2q_u32(efgh, old, rounds);
        }
        abcd = vaddq_u32(abcd, before_abcd), efgh = vaddq_u32(efgh, before_efgh);
    }
    vst1q_u32(hash, abcd), vst1q_u32(hash + 4, efgh);
}
#else
static int has_instructions(void) { return 0; }
#define hash_by_instructions hash_plainly
#endif

void mmkd_sha256(const unsigned char *data, size_t size, unsigned char digest[32])
{
    void (*run)(uint32_t[8], const unsigned char *, size_t) = has_instructions() ? hash_by_instructions : hash_plainly;
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    size_t left = size % 64, blocks = left < 56 ? 1 : 2;
    uint64_t bits = (uint64_t)size * 8;
    run(hash, data, size / 64);
    if (left) memcpy(last, data + size - left, left);
    last[left] = 0x80;
    for (int i = 0; i < 8; i++) last[blocks * 64 - 1 - (size_t)i] = (unsigned char)(bits >> 8 * i);
    run(hash, last, blocks);
    for (int i = 0; i < 32; i++) digest[i] = (unsigned char)(hash[i / 4] >> (24 - i % 4 * 8));
}

void mmkd_sha256_text(const unsigned char *data, size_t size, char text[65])
{
    unsigned char digest[32];
    mmkd_sha256(data, size, digest);
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

int mmkd_is_signed(const mmkd_key *key, const unsigned char manifest_sha256[32], const unsigned char signature[64])
{
    static const char context[] = "mmkd-edge manifest 1"; /* its last byte, 0, is signed too */
    unsigned char message[sizeof context + 32];
    memcpy(message, context, sizeof context);
    memcpy(message + sizeof context, manifest_sha256, 32);
    return !crypto_ed25519_check(signature, key->ed25519, message, sizeof message);
}
