/* mien_wire.h: reads mien's packets from a byte stream. C99, one header, no allocation, no dependencies.
 *
 *   static struct mien_decoder decoder;            // zero it, or mien_decoder_init(&decoder)
 *   struct mien_packet packet;
 *   for each byte: switch (mien_feed(&decoder, byte, &packet)) {
 *       case MIEN_PACKET: ... packet.kind, packet.as.event.label ...
 *       case MIEN_NONE:   break;
 *       default:          an error, already counted in the decoder
 *   }
 *
 * On the line a packet is 0x00 | COBS(raw) | 0x00, and raw is
 *   version u8 | seq u16 little-endian | kind u8 | body (postcard) | crc u32 little-endian
 * with CRC-32/ISO-HDLC over the kind's schema id (4 bytes, little-endian), then version to body.
 * The fields of each kind stand in the structs below in their order on the line; integers wider than a byte are LEB128
 * varints, text is a varint length and UTF-8 without a terminator. Text points into the decoder: use it before the next feed.
 *
 * Text that is not UTF-8 makes a packet MIEN_ERR_PAYLOAD.
 *
 * at_ms - begin_ms, modulo 2^64, of an END is how long its label held, also over a restart of the sender.
 * What holds: a label from its BEGIN to its END, or to a hello with another boot. Hear nothing for three heartbeats: dead.
 *
 * Licence: MIT OR Apache-2.0, as mien.
 */
#ifndef MIEN_WIRE_H
#define MIEN_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MIEN_VERSION 1u
#define MIEN_RAW_MAX 512u
#define MIEN_LINE_MAX 517u
#define MIEN_LABELS_MAX 16u
#define MIEN_FACES_MAX 8u
#define MIEN_NO_LABEL 255u
#define MIEN_VIDEO 1u
#define MIEN_AUDIO 2u

/* FNV-1a of each kind's field list: another list means CRC errors, never wrong values. */
#define MIEN_SCHEMA_HELLO UINT32_C(0x36E5623D)
#define MIEN_SCHEMA_EVENT UINT32_C(0xD066F703)
#define MIEN_SCHEMA_HEARTBEAT UINT32_C(0x06ED2655)
#define MIEN_SCHEMA_REASON UINT32_C(0xE94C44F9)
#define MIEN_SCHEMA_GROUNDS UINT32_C(0x30F4A619)
#define MIEN_SCHEMA_PEOPLE UINT32_C(0xB339F756)
#define MIEN_SCHEMA_FACES UINT32_C(0x236AC5AF)
#define MIEN_SCHEMA_SECOND UINT32_C(0x0DBF4E09)

enum mien_kind {
    MIEN_HELLO = 0,
    MIEN_EVENT = 1,
    MIEN_HEARTBEAT = 2,
    MIEN_REASON = 3,
    MIEN_GROUNDS = 4, /* how the claims of a reason stand */
    MIEN_PEOPLE = 5,  /* faces that are there */
    MIEN_FACES = 6,   /* what each face shows */
    MIEN_SECOND = 7   /* what is shown beside the label that holds */
};

/* A code that is not in these lists comes from a newer sender: treat it as 0, "other". */
enum mien_event_kind { MIEN_BEGIN = 1, MIEN_CHANGE = 2, MIEN_END = 3, MIEN_UNKNOWN = 4 };
enum mien_cause {
    MIEN_CAUSE_NONE = 1,
    MIEN_FADED = 2,
    MIEN_REPLACED = 3,
    MIEN_LOW_CONFIDENCE = 4,
    MIEN_NO_VIDEO = 5,
    MIEN_NO_AUDIO = 6,
    MIEN_NO_INPUT = 7,
    MIEN_CAUSE_MUTED = 8,
    MIEN_SHUTDOWN = 9,
    MIEN_RESTART = 10,
    MIEN_INPUT_END = 11,
    MIEN_MODEL_ERROR = 12,
    MIEN_NOBODY = 13
};
enum mien_health {
    MIEN_OFF = 1,
    MIEN_OK = 2,
    MIEN_STALLED = 3,
    MIEN_ABSENT = 4,
    MIEN_MUTED = 5,
    MIEN_ENDED = 6
};

enum mien_result {
    MIEN_NONE = 0,       /* no packet yet */
    MIEN_PACKET = 1,
    MIEN_ERR_FRAMING = -1, /* not COBS */
    MIEN_ERR_LENGTH = -2,  /* shorter than the smallest packet or longer than the largest */
    MIEN_ERR_CRC = -3,     /* noise, or another schema */
    MIEN_ERR_VERSION = -4, /* another major version */
    MIEN_ERR_UNKNOWN = -5, /* a kind newer than this file */
    MIEN_ERR_PAYLOAD = -6  /* the fields do not add up */
};

struct mien_text {
    const char *bytes;
    uint16_t len;
};

struct mien_hello {
    uint8_t minor;
    uint32_t schema;
    uint64_t boot;
    struct mien_text device, software, purpose, bundle;
    uint8_t bundle_hash[8];
    struct mien_text label_set;
    uint8_t n_labels;
    struct mien_text labels[MIEN_LABELS_MAX];
    uint32_t window_ms, hop_ms, heartbeat_ms;
};

struct mien_event {
    uint32_t seq, episode;
    uint8_t kind, label;
    uint16_t confidence_permille, track;
    uint8_t expected, present, cause;
    uint64_t at_ms, begin_ms;
    uint32_t window_ms;
    uint64_t wall_ms;
    uint8_t wall_synced;
    uint32_t age_ms;
};

struct mien_heartbeat {
    uint64_t uptime_ms;
    uint8_t label;
    uint32_t episode, events, windows, late, dropped;
    uint8_t video, audio, muted;
    uint32_t infer_ms;
};

struct mien_reason {
    uint32_t episode;
    uint8_t part, parts;
    struct mien_text text;
};

/* Claims of an episode's reason: held of claims were measured to be so; bit i of contradicted_bits is claim i. */
struct mien_grounds {
    uint32_t episode;
    uint8_t claims, held, contradicted, unseen;
    uint32_t contradicted_bits;
};

/* Faces that are there; track is the largest one's, as long as it is followed, and 0 without one. */
struct mien_people {
    uint64_t at_ms;
    uint8_t count;
    uint16_t track;
};

/* What a face shows: an index into the hello's labels, or MIEN_NO_LABEL. */
struct mien_face {
    uint16_t track;
    uint8_t label;
    uint16_t confidence_permille;
};

/* Every face that is there, the one that events are about first. */
struct mien_faces {
    uint64_t at_ms;
    uint8_t n_faces;
    struct mien_face faces[MIEN_FACES_MAX];
};

/* What is shown beside the label of an episode: an index into the hello's labels, or MIEN_NO_LABEL for nothing any more. */
struct mien_second {
    uint64_t at_ms;
    uint32_t episode;
    uint8_t label;
    uint16_t confidence_permille;
};

struct mien_packet {
    uint16_t seq;
    uint8_t kind;
    union {
        struct mien_hello hello;
        struct mien_event event;
        struct mien_heartbeat heartbeat;
        struct mien_reason reason;
        struct mien_grounds grounds;
        struct mien_people people;
        struct mien_faces faces;
        struct mien_second second;
    } as;
};

struct mien_counts {
    uint32_t packets, framing, length, crc, version, unknown, payload;
    uint32_t gaps, missed;
};

struct mien_decoder {
    uint8_t frame[MIEN_LINE_MAX];
    uint16_t len;
    uint8_t overlong, has_seq, has_boot;
    uint16_t last_seq;
    uint64_t last_boot;
    struct mien_counts counts;
};

static inline void mien_decoder_init(struct mien_decoder *d) { memset(d, 0, sizeof *d); }

/* Bytes of a body, read front to back; `bad` once anything did not fit. */
struct mien_reader_ {
    const uint8_t *at, *end;
    uint8_t bad;
};

static inline uint8_t mien_u8_(struct mien_reader_ *r) {
    if (r->at == r->end) {
        r->bad = 1;
        return 0;
    }
    return *r->at++;
}

static inline uint64_t mien_varint_(struct mien_reader_ *r, unsigned bits) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        uint8_t byte = mien_u8_(r);
        unsigned room = bits - shift;
        if (room < 7 && ((byte & 0x7fu) >> room) != 0) {
            r->bad = 1;
            return 0;
        }
        value |= (uint64_t)(byte & 0x7fu) << shift;
        if ((byte & 0x80u) == 0) {
            return value;
        }
    }
    r->bad = 1;
    return 0;
}

/* Whether bytes are UTF-8 (RFC 3629): no overlong form, no surrogate, nothing above U+10FFFF, nothing cut. */
static inline int mien_utf8_(const uint8_t *s, size_t len) {
    size_t i = 0;
    while (i < len) {
        uint8_t first = s[i++];
        uint8_t low = 0x80, high = 0xBF; /* bounds of the second byte */
        int more;
        if (first < 0x80) {
            continue;
        } else if (first >= 0xC2 && first <= 0xDF) {
            more = 1;
        } else if (first >= 0xE0 && first <= 0xEF) {
            more = 2;
            low = first == 0xE0 ? 0xA0 : low;
            high = first == 0xED ? 0x9F : high;
        } else if (first >= 0xF0 && first <= 0xF4) {
            more = 3;
            low = first == 0xF0 ? 0x90 : low;
            high = first == 0xF4 ? 0x8F : high;
        } else {
            return 0;
        }
        for (; more > 0; more--) {
            if (i == len || s[i] < low || s[i] > high) {
                return 0;
            }
            low = 0x80;
            high = 0xBF;
            i++;
        }
    }
    return 1;
}

static inline struct mien_text mien_text_(struct mien_reader_ *r) {
    struct mien_text text = {"", 0};
    uint64_t len = mien_varint_(r, 32);
    if (r->bad || len > (uint64_t)(r->end - r->at) || !mien_utf8_(r->at, (size_t)len)) {
        r->bad = 1;
        return text;
    }
    text.bytes = (const char *)r->at;
    text.len = (uint16_t)len;
    r->at += len;
    return text;
}

static inline uint32_t mien_crc_(uint32_t crc, const uint8_t *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0u - (crc & 1u)));
        }
    }
    return crc;
}

/* Undoes COBS in place; the length, or -1. */
static inline int mien_cobs_(uint8_t *frame, size_t len) {
    size_t from = 0, to = 0;
    while (from < len) {
        uint8_t code = frame[from++];
        if (code == 0 || from + code - 1u > len) {
            return -1;
        }
        for (uint8_t i = 1; i < code; i++) {
            frame[to++] = frame[from++];
        }
        if (code != 255 && from < len) {
            frame[to++] = 0;
        }
    }
    return (int)to;
}

static inline void mien_read_(struct mien_reader_ *r, struct mien_packet *p) {
    if (p->kind == MIEN_HELLO) {
        struct mien_hello *h = &p->as.hello;
        h->minor = mien_u8_(r);
        h->schema = (uint32_t)mien_varint_(r, 32);
        h->boot = mien_varint_(r, 64);
        h->device = mien_text_(r);
        h->software = mien_text_(r);
        h->purpose = mien_text_(r);
        h->bundle = mien_text_(r);
        for (int i = 0; i < 8; i++) {
            h->bundle_hash[i] = mien_u8_(r);
        }
        h->label_set = mien_text_(r);
        uint64_t n = mien_varint_(r, 32);
        if (n > MIEN_LABELS_MAX) {
            r->bad = 1;
            return;
        }
        h->n_labels = (uint8_t)n;
        for (uint8_t i = 0; i < h->n_labels; i++) {
            h->labels[i] = mien_text_(r);
        }
        h->window_ms = (uint32_t)mien_varint_(r, 32);
        h->hop_ms = (uint32_t)mien_varint_(r, 32);
        h->heartbeat_ms = (uint32_t)mien_varint_(r, 32);
    } else if (p->kind == MIEN_EVENT) {
        struct mien_event *e = &p->as.event;
        e->seq = (uint32_t)mien_varint_(r, 32);
        e->episode = (uint32_t)mien_varint_(r, 32);
        e->kind = mien_u8_(r);
        e->label = mien_u8_(r);
        e->confidence_permille = (uint16_t)mien_varint_(r, 16);
        e->track = (uint16_t)mien_varint_(r, 16);
        e->expected = mien_u8_(r);
        e->present = mien_u8_(r);
        e->cause = mien_u8_(r);
        e->at_ms = mien_varint_(r, 64);
        e->begin_ms = mien_varint_(r, 64);
        e->window_ms = (uint32_t)mien_varint_(r, 32);
        e->wall_ms = mien_varint_(r, 64);
        e->wall_synced = mien_u8_(r);
        e->age_ms = (uint32_t)mien_varint_(r, 32);
    } else if (p->kind == MIEN_HEARTBEAT) {
        struct mien_heartbeat *h = &p->as.heartbeat;
        h->uptime_ms = mien_varint_(r, 64);
        h->label = mien_u8_(r);
        h->episode = (uint32_t)mien_varint_(r, 32);
        h->events = (uint32_t)mien_varint_(r, 32);
        h->windows = (uint32_t)mien_varint_(r, 32);
        h->late = (uint32_t)mien_varint_(r, 32);
        h->dropped = (uint32_t)mien_varint_(r, 32);
        h->video = mien_u8_(r);
        h->audio = mien_u8_(r);
        h->muted = mien_u8_(r);
        h->infer_ms = (uint32_t)mien_varint_(r, 32);
    } else if (p->kind == MIEN_REASON) {
        struct mien_reason *s = &p->as.reason;
        s->episode = (uint32_t)mien_varint_(r, 32);
        s->part = mien_u8_(r);
        s->parts = mien_u8_(r);
        s->text = mien_text_(r);
    } else if (p->kind == MIEN_GROUNDS) {
        struct mien_grounds *g = &p->as.grounds;
        g->episode = (uint32_t)mien_varint_(r, 32);
        g->claims = mien_u8_(r);
        g->held = mien_u8_(r);
        g->contradicted = mien_u8_(r);
        g->unseen = mien_u8_(r);
        g->contradicted_bits = (uint32_t)mien_varint_(r, 32);
    } else if (p->kind == MIEN_PEOPLE) {
        struct mien_people *n = &p->as.people;
        n->at_ms = mien_varint_(r, 64);
        n->count = mien_u8_(r);
        n->track = (uint16_t)mien_varint_(r, 16);
    } else if (p->kind == MIEN_SECOND) {
        struct mien_second *n = &p->as.second;
        n->at_ms = mien_varint_(r, 64);
        n->episode = (uint32_t)mien_varint_(r, 32);
        n->label = mien_u8_(r);
        n->confidence_permille = (uint16_t)mien_varint_(r, 16);
    } else {
        struct mien_faces *f = &p->as.faces;
        f->at_ms = mien_varint_(r, 64);
        uint64_t n = mien_varint_(r, 32);
        if (n > MIEN_FACES_MAX) {
            r->bad = 1;
            return;
        }
        f->n_faces = (uint8_t)n;
        for (uint8_t i = 0; i < f->n_faces; i++) {
            f->faces[i].track = (uint16_t)mien_varint_(r, 16);
            f->faces[i].label = mien_u8_(r);
            f->faces[i].confidence_permille = (uint16_t)mien_varint_(r, 16);
        }
    }
}

/* Reads what stands between two zeros, in place. */
static inline int mien_decode(uint8_t *frame, size_t frame_len, struct mien_packet *p) {
    static const uint32_t schemas[8] = {MIEN_SCHEMA_HELLO,  MIEN_SCHEMA_EVENT,   MIEN_SCHEMA_HEARTBEAT, MIEN_SCHEMA_REASON,
                                        MIEN_SCHEMA_GROUNDS, MIEN_SCHEMA_PEOPLE, MIEN_SCHEMA_FACES, MIEN_SCHEMA_SECOND};
    int len = mien_cobs_(frame, frame_len);
    if (len < 0) {
        return MIEN_ERR_FRAMING;
    }
    if (len < 8 || len > (int)MIEN_RAW_MAX) {
        return MIEN_ERR_LENGTH;
    }
    if (frame[0] != MIEN_VERSION) {
        return MIEN_ERR_VERSION;
    }
    if (frame[3] > MIEN_SECOND) {
        return MIEN_ERR_UNKNOWN;
    }
    memset(p, 0, sizeof *p);
    p->seq = (uint16_t)(frame[1] | frame[2] << 8);
    p->kind = frame[3];
    uint32_t schema = schemas[p->kind];
    uint8_t id[4] = {(uint8_t)schema, (uint8_t)(schema >> 8), (uint8_t)(schema >> 16), (uint8_t)(schema >> 24)};
    uint32_t crc = ~mien_crc_(mien_crc_(UINT32_C(0xFFFFFFFF), id, 4), frame, (size_t)len - 4);
    const uint8_t *c = frame + len - 4;
    if (crc != ((uint32_t)c[0] | (uint32_t)c[1] << 8 | (uint32_t)c[2] << 16 | (uint32_t)c[3] << 24)) {
        return MIEN_ERR_CRC;
    }
    struct mien_reader_ reader = {frame + 4, c, 0};
    mien_read_(&reader, p);
    return reader.bad || reader.at != reader.end ? MIEN_ERR_PAYLOAD : MIEN_PACKET;
}

static inline int mien_feed(struct mien_decoder *d, uint8_t byte, struct mien_packet *p) {
    if (byte != 0) {
        if (d->len < MIEN_LINE_MAX) {
            d->frame[d->len++] = byte;
        } else {
            d->overlong = 1;
        }
        return MIEN_NONE;
    }
    uint16_t len = d->len;
    d->len = 0;
    if (d->overlong) {
        d->overlong = 0;
        d->counts.length++;
        return MIEN_ERR_LENGTH;
    }
    if (len == 0) {
        return MIEN_NONE;
    }
    int result = mien_decode(d->frame, len, p);
    switch (result) {
    case MIEN_ERR_FRAMING: d->counts.framing++; return result;
    case MIEN_ERR_LENGTH: d->counts.length++; return result;
    case MIEN_ERR_CRC: d->counts.crc++; return result;
    case MIEN_ERR_VERSION: d->counts.version++; return result;
    case MIEN_ERR_UNKNOWN: d->counts.unknown++; return result;
    case MIEN_ERR_PAYLOAD: d->counts.payload++; return result;
    default: break;
    }
    d->counts.packets++;
    int restarted = 0;
    if (p->kind == MIEN_HELLO) {
        restarted = p->seq == 0 || (d->has_boot && d->last_boot != p->as.hello.boot);
        d->has_boot = 1;
        d->last_boot = p->as.hello.boot;
    }
    if (d->has_seq && !restarted) {
        uint16_t skipped = (uint16_t)(p->seq - d->last_seq - 1u);
        d->counts.gaps += skipped != 0;
        d->counts.missed += skipped;
    }
    d->has_seq = 1;
    d->last_seq = p->seq;
    return MIEN_PACKET;
}

#endif
