/* What compute.c computes with: vectors of MMKD_W floats, elementary functions of them, and products. Vectors are the
 * compilers' own (GCC, Clang); loops over them need no intrinsics. */
#ifndef MMKD_VECTORS_H
#define MMKD_VECTORS_H

#include <float.h> /* not INFINITY: -ffast-math excludes it */
#include <math.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef MMKD_W
#define MMKD_W 4
#endif

#define W MMKD_W
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * W), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
/* Compilers do not see the smaller and the larger of two in a selection: one instruction in place of four. */
#if defined(__AVX512F__) && MMKD_W == 16
#define ONE_OF(kind, a, b) (vec)_mm512_##kind##_ps((__m512)a, (__m512)b)
#elif defined(__AVX__) && MMKD_W == 8
#define ONE_OF(kind, a, b) (vec)_mm256_##kind##_ps((__m256)a, (__m256)b)
#elif defined(__SSE2__) && MMKD_W == 4
#define ONE_OF(kind, a, b) (vec)_mm_##kind##_ps((__m128)a, (__m128)b)
#elif defined(__ARM_NEON) && MMKD_W == 4
#define ONE_OF(kind, a, b) (vec)v##kind##q_f32((float32x4_t)a, (float32x4_t)b)
#else
#define ONE_OF(kind, a, b) kind##_of_each(a, b)
INLINE vec min_of_each(vec a, vec b) { for (int i = 0; i < W; i++) a[i] = a[i] < b[i] ? a[i] : b[i]; return a; }
INLINE vec max_of_each(vec a, vec b) { for (int i = 0; i < W; i++) a[i] = a[i] > b[i] ? a[i] : b[i]; return a; }
#endif
INLINE vec min_vec(vec a, vec b) { return ONE_OF(min, a, b); }
INLINE vec max_vec(vec a, vec b) { return ONE_OF(max, a, b); }
INLINE vec clamp_vec(vec x, float low, float high) { return min_vec(max_vec(x, splat(low)), splat(high)); }
INLINE float sum_vec(vec x)
{
#if defined(__SSE2__) && (W == 4 || defined(__AVX__))
#if W == 4
    __m128 part = (__m128)x;
#elif W == 8
    __m128 part = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#else
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
    __m128 part = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#endif
    part = _mm_add_ps(part, _mm_movehl_ps(part, part));
    return _mm_cvtss_f32(_mm_add_ss(part, _mm_shuffle_ps(part, part, 1)));
#else
    float part[W];
    memcpy(part, &x, sizeof part);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
#endif
}
INLINE float clampf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* exp for |x| below 87: 2^n times a polynomial of the rest (coefficients of Cephes' expf). */
INLINE vec exp_vec(vec x)
{
    x = clamp_vec(x, -87.0f, 87.0f);
    const vec shift = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec rounded = x * 1.44269504f + shift;
    ivec n = (ivec)rounded - (ivec)shift;
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vec value = p * r * r + r + 1.0f;
    return value * (vec)((n + 127) << 23);
}

/* erf within 4e-7: the odd rational approximation of Eigen and XLA. */
INLINE vec erf_vec(vec x)
{
    x = clamp_vec(x, -3.832506856900711f, 3.832506856900711f);
    vec square = x * x;
    vec p = square * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * square - 2.10102402082508e-06f;
    p = p * square - 5.69250639462346e-05f;
    p = p * square - 7.34990630326855e-04f;
    p = p * square - 2.95459980854025e-03f;
    p = p * square - 1.60960333262415e-02f;
    vec q = square * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * square - 1.68282697438203e-03f;
    q = q * square - 7.37332916720468e-03f;
    q = q * square - 1.42647390514189e-02f;
    return x * p / q;
}

INLINE vec gelu_vec(vec x) { return x * 0.5f * (erf_vec(x * 0.70710678f) + 1.0f); }

/* ---- products */

/* c (rows, n) = a (rows, k) b (k, n) + bias, of R rows and V vectors of columns. Strides are in floats. */
INLINE void tile(const float *restrict a, int64_t a_row, const float *restrict b, int64_t b_row,
                 const float *bias, float *c, int64_t c_row, int64_t k, const int R, const int V)
{
    vec sum[4][4];
    for (int v = 0; v < V; v++) {
        vec start = bias ? load(bias + v * W) : splat(0);
        for (int r = 0; r < R; r++) sum[r][v] = start;
    }
    for (int64_t i = 0; i < k; i++) {
        vec right[4];
        for (int v = 0; v < V; v++) right[v] = load(b + i * b_row + v * W);
        for (int r = 0; r < R; r++) {
            const vec left = splat(a[r * a_row + i]);
            for (int v = 0; v < V; v++) sum[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * c_row + v * W, sum[r][v]);
}

/* As `tile` for any number of rows; n is a multiple of W. */
INLINE void strip(const float *a, int64_t a_row, const float *b, int64_t b_row, const float *bias, float *c, int64_t c_row,
                  int64_t rows, int64_t k, const int V)
{
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) tile(a + row * a_row, a_row, b, b_row, bias, c + row * c_row, c_row, k, 4, V);
    a += row * a_row, c += row * c_row;
    if (rows - row == 3) tile(a, a_row, b, b_row, bias, c, c_row, k, 3, V);
    if (rows - row == 2) tile(a, a_row, b, b_row, bias, c, c_row, k, 2, V);
    if (rows - row == 1) tile(a, a_row, b, b_row, bias, c, c_row, k, 1, V);
}

static void product(const float *a, int64_t a_row, const float *b, int64_t b_row, const float *bias, float *c,
                    int64_t c_row, int64_t rows, int64_t k, int64_t n)
{
    for (int64_t col = 0; col < n;) {
        const float *start = bias ? bias + col : 0;
        int64_t left = (n - col) / W;
        if (left >= 3) strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 3);
        else if (left == 2) strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 2);
        else strip(a, a_row, b + col, b_row, start, c + col, c_row, rows, k, 1);
        col += left >= 3 ? 3 * W : left * W;
    }
}

/* Columns that are computed, and rows of scratch: whole vectors, at most mmkd_padded. */
INLINE int64_t whole_vecs(int64_t count) { return (count + W - 1) / W * W; }

/* Squared size of a frequency whose cosine and sine lie `bins` apart. */
INLINE float power_of(const float *part, int64_t bins) { return part[0] * part[0] + part[bins] * part[bins]; }

static float dot(const float *a, const float *b, int64_t count)
{
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

#endif
