/* An egg language model: reads bytes, says how likely each next byte is. C99, integers alone.

@ABOUT@

   Integer types only, no heap, no library but <stdint.h> and, for main, <stdio.h>. What is computed is
   docs/arithmetic.md of egg, to the last bit. Of the implementation it asks for two's complement int8_t,
   int32_t and uint64_t, which C99's <stdint.h> has wherever there are such types; no shift of a negative
   number, and no narrowing of one that does not fit, is left to the compiler.

   To compile:    cc -std=c99 -O3 -o model model.c
   To measure:    ./model < text          prints bits per byte; a NUL ends a document, begins another
   To embed:      -DEGG_NO_MAIN, and the three functions below */

#include <stdint.h>

@DEFINES@

typedef struct {
    int8_t h[EGG_LAYERS][EGG_HIDDEN];
} egg_state;

/* Forget everything. A document begins with this and an egg_read of byte 0, or with that alone. */
void egg_begin(egg_state *state);

/* Read a byte; logits, in sixteenths of a bit, say how likely each next byte v is: 2^(logits[v] / 16) over
   the sum of all 256 such powers. */
void egg_read(egg_state *state, uint8_t byte, int8_t logits[256]);

/* -log2 of that share for one byte, in 2^-24 bits: at most 1.1 of them too small, never 0.01 too large. */
uint32_t egg_cost(const int8_t logits[256], uint8_t byte);

typedef struct {
    const int8_t *w;
#if EGG_RANK
    const int8_t *a, *b; /* an adapter's factors, or 0 */
#endif
} egg_matrix;

typedef struct {
    const int8_t *ln1;
    egg_matrix w_f, u_f;
    const int8_t *b_f;
    egg_matrix w_h, u_h;
    const int8_t *b_h, *ln2;
    egg_matrix w_up, w_down;
} egg_layer;

@WEIGHTS@

/* v / 2^s, rounded towards minus infinity; C99 leaves the shift of a negative number to the compiler. */
static int32_t shift_floor(int32_t v, int s)
{
    return v >= 0 ? v >> s : -1 - ((-1 - v) >> s);
}

static int8_t clip8(int32_t v)
{
    return (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
}

static int32_t dot(const int8_t *w, const int8_t *x, int inputs)
{
    int32_t sum = 0;
    int k;
    for (k = 0; k < inputs; k++)
        sum += (int32_t)w[k] * x[k];
    return sum;
}

/* What an adapter reads for its matrix, before the outputs are computed; nothing without one. */
static void read_factors(const egg_matrix *m, const int8_t *x, int8_t *z, int inputs, int shift)
{
#if EGG_RANK
    int r;
    for (r = 0; m->a != 0 && r < EGG_RANK; r++)
        z[r] = clip8(shift_floor(dot(m->a + inputs * r, x, inputs), shift));
#else
    (void)m, (void)x, (void)z, (void)inputs, (void)shift;
#endif
}

/* One output of a product: |sum| <= 127 * 127 * 4096 < 2^26, and an adapter's part < 2^22. */
static int8_t product(const egg_matrix *m, int row, const int8_t *x, const int8_t *z, int inputs, int shift)
{
    int32_t sum = dot(m->w + inputs * row, x, inputs);
#if EGG_RANK
    if (m->b != 0)
        sum += dot(m->b + EGG_RANK * row, z, EGG_RANK) * (1 << (shift - 6));
#else
    (void)z;
#endif
    return clip8(shift_floor(sum, shift));
}

/* clip8((x * gain) // max(1, mean |x|)), rounded towards minus infinity. */
static void norm(const int8_t *x, const int8_t *gain, int8_t *out)
{
    int32_t mean = 0;
    int d;
    for (d = 0; d < EGG_HIDDEN; d++)
        mean += x[d] < 0 ? -x[d] : x[d];
    mean /= EGG_HIDDEN;
    if (mean < 1)
        mean = 1;
    for (d = 0; d < EGG_HIDDEN; d++) {
        int32_t v = (int32_t)x[d] * gain[d], quotient = v / mean;
        out[d] = clip8(quotient - (v % mean < 0)); /* C99 rounds towards 0 */
    }
}

static void read_layer(const egg_layer *layer, int8_t *h, int8_t *x)
{
    int8_t u[EGG_HIDDEN], past[EGG_HIDDEN], wide[4 * EGG_HIDDEN];
    int32_t gate[EGG_HIDDEN]; /* f + 127: 0 keeps the state, 254 renews it */
    int8_t z[2][EGG_RANK + 1] = {{0}};
    int d;

    norm(x, layer->ln1, u);
    read_factors(&layer->w_f, u, z[0], EGG_HIDDEN, EGG_SHIFT);
    read_factors(&layer->u_f, h, z[1], EGG_HIDDEN, EGG_SHIFT);
    for (d = 0; d < EGG_HIDDEN; d++) {
        int32_t f = product(&layer->w_f, d, u, z[0], EGG_HIDDEN, EGG_SHIFT);
        f += product(&layer->u_f, d, h, z[1], EGG_HIDDEN, EGG_SHIFT);
        gate[d] = 127 + clip8(f + layer->b_f[d]);
        past[d] = (int8_t)shift_floor(gate[d] * h[d], 8);
    }
    read_factors(&layer->w_h, u, z[0], EGG_HIDDEN, EGG_SHIFT);
    read_factors(&layer->u_h, past, z[1], EGG_HIDDEN, EGG_SHIFT);
    for (d = 0; d < EGG_HIDDEN; d++) {
        int32_t c = product(&layer->w_h, d, u, z[0], EGG_HIDDEN, EGG_SHIFT);
        c += product(&layer->u_h, d, past, z[1], EGG_HIDDEN, EGG_SHIFT);
        c = clip8(c + layer->b_h[d]);
        h[d] = (int8_t)(h[d] + shift_floor(gate[d] * (c - h[d]), 8));
        x[d] = clip8(x[d] + h[d]);
    }
    norm(x, layer->ln2, u);
    read_factors(&layer->w_up, u, z[0], EGG_HIDDEN, EGG_SHIFT);
    for (d = 0; d < 4 * EGG_HIDDEN; d++)
        wide[d] = product(&layer->w_up, d, u, z[0], EGG_HIDDEN, EGG_SHIFT);
    read_factors(&layer->w_down, wide, z[0], 4 * EGG_HIDDEN, EGG_SHIFT + 1);
    for (d = 0; d < EGG_HIDDEN; d++)
        x[d] = clip8(x[d] + product(&layer->w_down, d, wide, z[0], 4 * EGG_HIDDEN, EGG_SHIFT + 1));
}

void egg_begin(egg_state *state)
{
    int i, d;
    for (i = 0; i < EGG_LAYERS; i++)
        for (d = 0; d < EGG_HIDDEN; d++)
            state->h[i][d] = 0;
}

void egg_read(egg_state *state, uint8_t byte, int8_t logits[256])
{
    int8_t x[EGG_HIDDEN], last[EGG_HIDDEN], z[EGG_RANK + 1] = {0};
    int i, v;
    if (byte == 0)
        egg_begin(state);
    for (i = 0; i < EGG_HIDDEN; i++)
        x[i] = egg_embedding[EGG_HIDDEN * byte + i];
    for (i = 0; i < EGG_LAYERS; i++)
        read_layer(&egg_layers[i], state->h[i], x);
    norm(x, egg_ln_out, last);
    read_factors(&egg_head_matrix, last, z, EGG_HIDDEN, EGG_SHIFT);
    for (v = 0; v < 256; v++)
        logits[v] = product(&egg_head_matrix, v, last, z, EGG_HIDDEN, EGG_SHIFT);
}

uint32_t egg_cost(const int8_t logits[256], uint8_t byte)
{
    /* round(2^(32 + j / 16)) */
    static const uint64_t powers[16] = {
@POWERS@
    };
    uint64_t sum = 0, square;
    uint32_t log2, mantissa;
    int v, bit;
    for (v = 0; v < 256; v++) { /* 2^(32 + logit / 16 + 8): sum < 2^57 */
        int above = logits[v] + 128;
        sum += powers[above & 15] << (above >> 4);
    }
    log2 = 32; /* sum >= 256 * 2^32 */
    while (sum >> (log2 + 1) != 0)
        log2++;
    mantissa = (uint32_t)(sum >> (log2 - 31)); /* top bit set: 1 to 2, times 2^31 */
    for (bit = 0; bit < 24; bit++) { /* a square's top bit is the next bit of the logarithm */
        square = (uint64_t)mantissa * mantissa;
        log2 = log2 << 1 | (uint32_t)(square >> 63);
        mantissa = (uint32_t)(square >> (31 + (square >> 63)));
    }
    return log2 - ((uint32_t)32 << 24) - ((uint32_t)(logits[byte] + 128) << 20);
}

#ifndef EGG_NO_MAIN
#include <stdio.h>

static void print_whole(uint64_t number)
{
    if (number >= 10)
        print_whole(number / 10);
    putchar('0' + (int)(number % 10));
}

/* Bits per byte of standard input, each document from its beginning: to 6 digits, of which the last may be
   one too small. Exact for less than 2^35 bytes, where sums reach 64 bits. */
int main(void)
{
    static egg_state state;
    static int8_t logits[256];
    uint64_t cost = 0, bytes = 0, whole, rest;
    int c, digit;

    egg_read(&state, 0, logits);
    while ((c = getchar()) != EOF) {
        if (c != 0) {
            cost += egg_cost(logits, (uint8_t)c);
            bytes++;
        }
        egg_read(&state, (uint8_t)c, logits);
    }
    if (bytes == 0) {
        fputs("no byte to read on standard input\n", stderr);
        return 1;
    }
    whole = bytes << 24; /* units of cost in one bit per byte */
    cost += whole / 2000000; /* rounds the last digit */
    print_whole(cost / whole);
    putchar('.');
    for (rest = cost % whole, digit = 0; digit < 6; digit++, rest %= whole) {
        rest *= 10;
        putchar('0' + (int)(rest / whole));
    }
    fputs(" bits per byte, ", stdout);
    print_whole(bytes);
    fputs(" bytes\n", stdout);
    return 0;
}
#endif
