/* Mutated bytes through the C decoder, for the sanitizers: `fuzz RUNS SEED FILE`. FILE holds packets as they go over a line. */
#include "../../board/firmware/mien_wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint64_t dice(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Touches every byte of a text, so that a sanitizer sees one that lies outside. */
static uint32_t sum(struct mien_text text) {
    uint32_t all = 0;
    for (int i = 0; i < (int)text.len; i++) {
        all += (uint8_t)text.bytes[i];
    }
    return all;
}

static uint32_t touch(const struct mien_packet *p) {
    if (p->kind == MIEN_HELLO) {
        const struct mien_hello *h = &p->as.hello;
        uint32_t all = sum(h->device) + sum(h->software) + sum(h->purpose) + sum(h->bundle) + sum(h->label_set);
        for (int i = 0; i < h->n_labels; i++) {
            all += sum(h->labels[i]);
        }
        return all;
    }
    return p->kind == MIEN_REASON ? sum(p->as.reason.text) : (uint32_t)p->seq;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: fuzz RUNS SEED FILE\n");
        return 2;
    }
    uint64_t runs = strtoull(argv[1], NULL, 10), taken = 0;
    uint32_t touched = 0;
    state = strtoull(argv[2], NULL, 10) | 1;
    FILE *file = fopen(argv[3], "rb");
    static uint8_t seed[1 << 20];
    size_t len = file ? fread(seed, 1, sizeof seed, file) : 0;
    if (len < 64) {
        fprintf(stderr, "%s holds no packets\n", argv[3]);
        return 2;
    }
    static struct mien_decoder decoder;
    for (uint64_t run = 0; run < runs; run++) {
        /* A stretch of the packets, a few bytes of it changed, or noise; exactly as long as its allocation. */
        size_t count = 1 + dice() % 320, at = dice() % (len - 1);
        if (count > len - at) {
            count = len - at;
        }
        uint8_t *bytes = malloc(count);
        memcpy(bytes, seed + at, count);
        for (uint64_t changes = dice() % 4; changes > 0; changes--) {
            bytes[dice() % count] = (uint8_t)dice();
        }
        for (size_t i = 0; i < count; i++) {
            struct mien_packet packet;
            if (mien_feed(&decoder, bytes[i], &packet) == MIEN_PACKET) {
                taken++;
                touched += touch(&packet);
            }
        }
        free(bytes);
    }
    printf("| wire in C | %" PRIu64 " | %" PRIu64 " | | sum of what was read %08" PRIx32 " |\n", runs, taken, touched);
    return 0;
}
