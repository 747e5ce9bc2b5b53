/* What firmware does with mien's bytes, shown on a PC: reads standard input, prints one line per packet.
 *
 *   cc -std=c99 -o mien-example example.c && ./mien-example < /dev/ttyUSB0
 *
 * On a microcontroller, call mien_feed for each byte that the UART's receive interrupt queued.
 */
#include "mien_wire.h"

#include <inttypes.h>
#include <stdio.h>

static struct mien_decoder decoder;

static void print_text(const char *name, struct mien_text text) {
    printf(" %s=%.*s", name, (int)text.len, text.bytes);
}

static void print_packet(const struct mien_packet *p) {
    printf("%" PRIu16, p->seq);
    if (p->kind == MIEN_HELLO) {
        const struct mien_hello *h = &p->as.hello;
        printf(" hello minor=%u schema=%08" PRIx32 " boot=%016" PRIx64, (unsigned)h->minor, h->schema, h->boot);
        print_text("device", h->device);
        print_text("software", h->software);
        print_text("purpose", h->purpose);
        print_text("bundle", h->bundle);
        printf(" bundle_hash=");
        for (int i = 0; i < 8; i++) {
            printf("%02x", (unsigned)h->bundle_hash[i]);
        }
        print_text("label_set", h->label_set);
        printf(" labels=");
        for (int i = 0; i < h->n_labels; i++) {
            printf("%s%.*s", i ? "," : "", (int)h->labels[i].len, h->labels[i].bytes);
        }
        printf(" window_ms=%" PRIu32 " hop_ms=%" PRIu32 " heartbeat_ms=%" PRIu32 "\n", h->window_ms, h->hop_ms,
               h->heartbeat_ms);
    } else if (p->kind == MIEN_EVENT) {
        const struct mien_event *e = &p->as.event;
        printf(" event seq=%" PRIu32 " episode=%" PRIu32 " kind=%u label=%u confidence_permille=%" PRIu16
               " track=%" PRIu16 " expected=%u present=%u cause=%u at_ms=%" PRIu64 " begin_ms=%" PRIu64
               " window_ms=%" PRIu32 " wall_ms=%" PRIu64 " wall_synced=%u age_ms=%" PRIu32 "\n",
               e->seq, e->episode, (unsigned)e->kind, (unsigned)e->label, e->confidence_permille, e->track,
               (unsigned)e->expected, (unsigned)e->present, (unsigned)e->cause, e->at_ms, e->begin_ms, e->window_ms,
               e->wall_ms, (unsigned)e->wall_synced, e->age_ms);
    } else if (p->kind == MIEN_HEARTBEAT) {
        const struct mien_heartbeat *h = &p->as.heartbeat;
        printf(" heartbeat uptime_ms=%" PRIu64 " label=%u episode=%" PRIu32 " events=%" PRIu32 " windows=%" PRIu32
               " late=%" PRIu32 " dropped=%" PRIu32 " video=%u audio=%u muted=%u infer_ms=%" PRIu32 "\n",
               h->uptime_ms, (unsigned)h->label, h->episode, h->events, h->windows, h->late, h->dropped,
               (unsigned)h->video, (unsigned)h->audio, (unsigned)h->muted, h->infer_ms);
    } else if (p->kind == MIEN_REASON) {
        printf(" reason episode=%" PRIu32 " part=%u/%u", p->as.reason.episode, (unsigned)p->as.reason.part,
               (unsigned)p->as.reason.parts);
        print_text("text", p->as.reason.text);
        printf("\n");
    } else if (p->kind == MIEN_GROUNDS) {
        const struct mien_grounds *g = &p->as.grounds;
        printf(" grounds episode=%" PRIu32 " claims=%u held=%u contradicted=%u unseen=%u contradicted_bits=%08" PRIx32 "\n",
               g->episode, (unsigned)g->claims, (unsigned)g->held, (unsigned)g->contradicted, (unsigned)g->unseen,
               g->contradicted_bits);
    } else if (p->kind == MIEN_PEOPLE) {
        const struct mien_people *n = &p->as.people;
        printf(" people at_ms=%" PRIu64 " count=%u track=%" PRIu16 "\n", n->at_ms, (unsigned)n->count, n->track);
    } else if (p->kind == MIEN_SECOND) {
        const struct mien_second *n = &p->as.second;
        printf(" second at_ms=%" PRIu64 " episode=%" PRIu32 " label=%u confidence=%" PRIu16 "\n", n->at_ms, n->episode,
               (unsigned)n->label, n->confidence_permille);
    } else {
        const struct mien_faces *f = &p->as.faces;
        printf(" faces at_ms=%" PRIu64, f->at_ms);
        for (int i = 0; i < f->n_faces; i++) {
            printf(" %" PRIu16 ":%u:%" PRIu16, f->faces[i].track, (unsigned)f->faces[i].label,
                   f->faces[i].confidence_permille);
        }
        printf("\n");
    }
}

int main(void) {
    struct mien_packet packet;
    int byte;
    while ((byte = getchar()) != EOF) {
        if (mien_feed(&decoder, (uint8_t)byte, &packet) == MIEN_PACKET) {
            print_packet(&packet);
            fflush(stdout);
        }
    }
    const struct mien_counts *c = &decoder.counts;
    printf("packets=%" PRIu32 " framing=%" PRIu32 " length=%" PRIu32 " crc=%" PRIu32 " version=%" PRIu32
           " unknown=%" PRIu32 " payload=%" PRIu32 " gaps=%" PRIu32 " missed=%" PRIu32 "\n",
           c->packets, c->framing, c->length, c->crc, c->version, c->unknown, c->payload, c->gaps, c->missed);
    return 0;
}
