/* SentencePiece's precompiled character map (sentencepiece/src/normalizer.cc): four bytes with the size of a Darts
 * double-array trie, the trie, and NUL-terminated replacements. A value of the trie is the place of its replacement.
 *
 * SentencePiece takes the longest entry at each place. The tokenizers library asks for grapheme clusters of up to 5 bytes,
 * then for single characters, and takes the shortest entry that begins them; a tokenizer.json means that. */
#include <utf8proc.h>

#include "text/normalizer.h"
#include "text/trie.h"

enum { MAX_BLOB = 1 << 26 };

struct gr_charsmap {
    const graft_allocator *a;
    unsigned char *blob;
    size_t n_units; /* 32-bit little-endian units of the trie, from blob + 4 */
    const char *replacements;
    size_t n_replacements;
    bool longest;
    gr_trie kept;
};

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static graft_status decode_base64(const char *text, size_t len, unsigned char *out, size_t *n, graft_error *err) {
    while (len > 0 && text[len - 1] == '=') len--;
    uint32_t bits = 0;
    int n_bits = 0;
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        int v = base64_value(text[i]);
        if (v < 0) return gr_fail(err, GRAFT_ERR_FORMAT, "precompiled_charsmap: byte %zu is not base64", i);
        bits = (bits << 6 | (uint32_t)v) & 0xFFFFFF;
        if ((n_bits += 6) >= 8) out[(*n)++] = (unsigned char)(bits >> (n_bits -= 8));
    }
    return GRAFT_OK;
}

static uint32_t unit(const gr_charsmap *m, size_t i) {
    const unsigned char *p = m->blob + 4 + i * 4;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

graft_status gr_charsmap_new(const graft_allocator *a, const char *base64, size_t len, bool longest, gr_charsmap **out,
                             graft_error *err) {
    if (len > MAX_BLOB) return gr_fail(err, GRAFT_ERR_LIMIT, "precompiled_charsmap: larger than %d bytes", MAX_BLOB);
    gr_charsmap *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->a = a;
    m->longest = longest;
    gr_trie_init(&m->kept, a);
    m->blob = gr_alloc(a, len + 1);
    if (!m->blob) {
        gr_charsmap_free(m);
        return gr_fail_memory(err);
    }
    size_t n = 0;
    graft_status st = decode_base64(base64, len, m->blob, &n, err);
    if (st == GRAFT_OK) {
        uint32_t size = n < 4 ? 0 : (uint32_t)m->blob[0] | (uint32_t)m->blob[1] << 8 | (uint32_t)m->blob[2] << 16 |
                                        (uint32_t)m->blob[3] << 24;
        if (n < 4 || size > n - 4 || size % 4 != 0) {
            st = gr_fail(err, GRAFT_ERR_FORMAT,
                         "precompiled_charsmap: byte 0: a trie of %u bytes; expected a multiple of 4 that fits the map of %zu bytes",
                         size, n);
        } else {
            m->n_units = size / 4;
            m->blob[n] = '\0'; /* the last replacement ends here at the latest */
            m->replacements = (const char *)m->blob + 4 + size;
            m->n_replacements = n - 4 - size;
            if (size && (!m->n_replacements || m->blob[n - 1]))
                st = gr_fail(err, GRAFT_ERR_FORMAT,
                             "precompiled_charsmap: byte %zu: the map ends inside a replacement; expected a NUL", n);
        }
    }
    if (st != GRAFT_OK) {
        gr_charsmap_free(m);
        return st;
    }
    *out = m;
    return GRAFT_OK;
}

void gr_charsmap_free(gr_charsmap *m) {
    if (!m) return;
    gr_free(m->a, m->blob);
    gr_trie_free(&m->kept);
    gr_free(m->a, m);
}

/* Darts-clone units: label in bits 0-7 and 31, "has a leaf" in bit 8, offset in bits 10-30 (bit 9: times 256). */
static size_t offset_of(uint32_t u) { return (u >> 10) << ((u & (1u << 9)) >> 6); }

/* The replacement for the shortest prefix of text[0..n) that has one, or for the longest, and its length; NULL: none. */
static const char *lookup(const gr_charsmap *m, const char *text, size_t n, size_t *used) {
    const char *found = NULL;
    if (m->n_units == 0) return NULL;
    size_t node = offset_of(unit(m, 0));
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == 0) break;
        node ^= c;
        if (node >= m->n_units) break;
        const uint32_t u = unit(m, node);
        if ((u & 0x800000FFu) != c) break;
        node ^= offset_of(u);
        if (!(u >> 8 & 1) || node >= m->n_units) continue;
        const size_t at = unit(m, node) & 0x7FFFFFFFu;
        if (at >= m->n_replacements) break;
        found = m->replacements + at;
        *used = i + 1;
        if (!m->longest) break;
    }
    return found;
}

static size_t count_chars(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

/* Writes `with` in place of n_old characters: the first ones replace, more are inserted, fewer drop the rest. */
static void replace(gr_edit *e, size_t n_old, const char *with) {
    const size_t len = strlen(with);
    const long n_new = (long)count_chars(with, len), diff = n_new - (long)n_old;
    long k = 0;
    for (size_t i = 0; i < len; k++) {
        int32_t cp;
        i += gr_utf8_decode(with + i, len - i, &cp);
        const long change = diff > 0 ? (k >= n_new - diff) : (k == n_new - 1 ? diff : 0);
        gr_edit_push(e, cp < 0 ? 0xFFFD : cp, change);
    }
    if (n_new == 0) gr_edit_skip(e, n_old);
}

/* Bytes of the grapheme cluster at text[start]. */
static size_t cluster(const char *text, size_t len, size_t start) {
    int32_t cp, next;
    utf8proc_int32_t state = 0;
    size_t end = start + gr_utf8_decode(text + start, len - start, &cp);
    while (end < len) {
        const size_t n = gr_utf8_decode(text + end, len - end, &next);
        if (utf8proc_grapheme_break_stateful(cp, next, &state)) break;
        end += n;
        cp = next;
    }
    return end - start;
}

graft_status gr_charsmap_keep(gr_charsmap *m, const char *text, size_t len, graft_error *err) {
    return gr_trie_add(&m->kept, text, len, 0, err);
}

/* Bytes of the longest kept text at the beginning; 0: none. */
static size_t kept(const gr_charsmap *m, const char *text, size_t n) {
    uint32_t node = GR_TRIE_ROOT;
    size_t end = 0;
    const gr_trie_edge *e;
    for (size_t i = 0; i < n && (e = gr_trie_step(&m->kept, node, (unsigned char)text[i])); i++) {
        node = e->child;
        if (e->value >= 0) end = i + 1;
    }
    return end;
}

static void apply_longest(const gr_charsmap *m, gr_edit *e) {
    const char *text = e->in.text;
    const size_t len = e->in.len;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t used = kept(m, text + i, len - i);
        if (used) {
            gr_edit_copy(e, used);
            i += used;
            continue;
        }
        const char *with = lookup(m, text + i, len - i, &used);
        /* An entry that ended inside a character would leave half of it behind. */
        if (with && (i + used == len || ((unsigned char)text[i + used] & 0xC0) != 0x80)) {
            replace(e, count_chars(text + i, used), with);
        } else {
            used = gr_utf8_decode(text + i, len - i, &cp);
            gr_edit_copy(e, used);
        }
        i += used;
    }
}

static void apply_clusters(const gr_charsmap *m, gr_edit *e) {
    const char *text = e->in.text;
    const size_t len = e->in.len;
    for (size_t start = 0, end; start < len; start = end) {
        size_t used;
        end = start + cluster(text, len, start);
        const char *with = end - start < 6 ? lookup(m, text + start, end - start, &used) : NULL;
        if (with) replace(e, count_chars(text + start, end - start), with);
        for (size_t i = start; !with && i < end;) {
            int32_t cp;
            const size_t n = gr_utf8_decode(text + i, end - i, &cp);
            const char *one = lookup(m, text + i, n, &used);
            if (one) replace(e, 1, one);
            else gr_edit_copy(e, n);
            i += n;
        }
    }
}

graft_status gr_charsmap_apply(const gr_charsmap *m, gr_edit *e, graft_error *err) {
    if (m->longest) apply_longest(m, e);
    else apply_clusters(m, e);
    return gr_edit_end(e, err);
}
