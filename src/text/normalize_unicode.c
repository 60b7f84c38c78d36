/* NFC, NFD, NFKC and NFKD (UAX 15) with alignment. utf8proc decomposes and composes single characters; the walk over
 * the text is written here, because an alignment needs to know which character came from which: a decomposed
 * character hands its range on to the parts behind its first, a composed one covers what it swallowed. */
#include <utf8proc.h>

#include "text/normalizer.h"
#include "text/unicode.h"

typedef struct part {
    int32_t cp;
    int ccc;
    long change;
} part;

typedef struct form {
    const graft_allocator *a;
    gr_edit *e;
    bool compose, compat;
    part *pending; /* decomposed, waiting for canonical order: a starter and what follows it */
    size_t n_pending, pending_cap;
    part *scratch;
    size_t scratch_cap;
    bool has_base; /* composition: the last starter, and marks that could not join it */
    part base;
    int last_ccc; /* -1: nothing stands between base and the next character */
    part *marks;
    size_t n_marks, marks_cap;
} form;

static int ccc_of(int32_t cp) {
    const int ccc = utf8proc_get_property(cp)->combining_class;
    return ccc && gr_cp_not_normalized(cp) ? 0 : ccc;
}

static bool compose_pair(int32_t a, int32_t b, int32_t *out) {
    if (b < 0x300) return false;
    utf8proc_int32_t pair[2] = {a, b};
    if (utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1) return false;
    *out = pair[0];
    return true;
}

static graft_status push_mark(form *f, part p, graft_error *err) {
    GR_TRY(gr_grow(f->a, (void **)&f->marks, &f->marks_cap, f->n_marks + 1, sizeof *f->marks, err));
    f->marks[f->n_marks++] = p;
    f->last_ccc = p.ccc;
    return GRAFT_OK;
}

static void flush_base(form *f) {
    if (f->has_base) gr_edit_push(f->e, f->base.cp, f->base.change);
    for (size_t i = 0; i < f->n_marks; i++) gr_edit_push(f->e, f->marks[i].cp, f->marks[i].change);
    f->n_marks = 0;
    f->has_base = false;
    f->last_ccc = -1;
}

static graft_status put(form *f, part p, graft_error *err) {
    if (!f->compose) {
        gr_edit_push(f->e, p.cp, p.change);
        return GRAFT_OK;
    }
    if (!f->has_base) {
        if (p.ccc != 0) {
            gr_edit_push(f->e, p.cp, p.change);
        } else {
            f->base = p;
            f->has_base = true;
        }
        return GRAFT_OK;
    }
    int32_t whole;
    const bool blocked = f->last_ccc >= 0 && f->last_ccc >= p.ccc;
    if (!blocked && compose_pair(f->base.cp, p.cp, &whole)) {
        f->base.cp = whole;
        f->base.change += p.change - 1;
        return GRAFT_OK;
    }
    if (p.ccc == 0) {
        flush_base(f);
        f->base = p;
        f->has_base = true;
        return GRAFT_OK;
    }
    return push_mark(f, p, err);
}

/* Stable sort by combining class: counting, so that a long run of marks costs no more than a short one. */
static graft_status order(form *f, graft_error *err) {
    bool sorted = true;
    for (size_t i = 1; i < f->n_pending && sorted; i++) sorted = f->pending[i - 1].ccc <= f->pending[i].ccc;
    if (sorted) return GRAFT_OK;
    GR_TRY(gr_grow(f->a, (void **)&f->scratch, &f->scratch_cap, f->n_pending, sizeof *f->scratch, err));
    size_t at[257] = {0};
    for (size_t i = 0; i < f->n_pending; i++) at[f->pending[i].ccc + 1]++;
    for (int c = 0; c < 256; c++) at[c + 1] += at[c];
    for (size_t i = 0; i < f->n_pending; i++) f->scratch[at[f->pending[i].ccc]++] = f->pending[i];
    memcpy(f->pending, f->scratch, f->n_pending * sizeof *f->pending);
    return GRAFT_OK;
}

static graft_status flush_pending(form *f, graft_error *err) {
    GR_TRY(order(f, err));
    for (size_t i = 0; i < f->n_pending; i++) GR_TRY(put(f, f->pending[i], err));
    f->n_pending = 0;
    return GRAFT_OK;
}

static graft_status decompose(form *f, int32_t cp, graft_error *err) {
    utf8proc_int32_t parts[32];
    int last = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(
        cp, parts, GR_COUNT(parts), UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (f->compat ? UTF8PROC_COMPAT : 0), &last);
    if (n < 1 || n > (utf8proc_ssize_t)GR_COUNT(parts) || gr_cp_not_normalized(cp)) {
        parts[0] = cp;
        n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        part p = {.cp = parts[i], .ccc = ccc_of(parts[i]), .change = i > 0};
        if (p.ccc == 0) GR_TRY(flush_pending(f, err));
        GR_TRY(gr_grow(f->a, (void **)&f->pending, &f->pending_cap, f->n_pending + 1, sizeof *f->pending, err));
        f->pending[f->n_pending++] = p;
    }
    return GRAFT_OK;
}

static graft_status run(form *f, graft_error *err) {
    const char *text = f->e->in.text;
    const size_t len = f->e->in.len;
    for (size_t i = 0; i < len;) {
        size_t ascii = i;
        while (ascii < len && (unsigned char)text[ascii] < 128) ascii++;
        if (ascii - i >= 2) {
            /* Nothing joins an ASCII character from behind, and only the last of the run can be joined to. */
            GR_TRY(flush_pending(f, err));
            flush_base(f);
            gr_edit_copy(f->e, ascii - 1 - i);
            i = ascii - 1;
        }
        int32_t cp;
        i += gr_utf8_decode(text + i, len - i, &cp);
        GR_TRY(decompose(f, cp, err));
    }
    GR_TRY(flush_pending(f, err));
    flush_base(f);
    return GRAFT_OK;
}

graft_status gr_normalize_form(const graft_allocator *a, gr_edit *e, bool compose, bool compat, graft_error *err) {
    form f = {.a = a, .e = e, .compose = compose, .compat = compat, .last_ccc = -1};
    graft_status st = run(&f, err);
    gr_free(a, f.pending);
    gr_free(a, f.scratch);
    gr_free(a, f.marks);
    return st;
}

static bool inert(int32_t cp, bool compose, bool compat) {
    if (cp < 0xA0) return true;
    if (compose && cp >= 0xAC00 && cp <= 0xD7A3) return true;
    const utf8proc_property_t *p = utf8proc_get_property(cp);
    if (p->combining_class != 0) return false;
    if (p->decomp_seqindex != UINT16_MAX)
        /* Latin and Cyrillic letters that composition puts together again. */
        return compose && !compat && (cp < 0x300 || (cp >= 0x400 && cp < 0x500) || (cp >= 0x1E00 && cp < 0x1F00));
    if (!compose) return !(cp >= 0xAC00 && cp <= 0xD7A3);
    /* The second half of a pair carries the high bit; Hangul vowels and finals join by rule. */
    return (p->comb_index == UINT16_MAX || p->comb_index < 0x8000) && !(cp >= 0x1161 && cp <= 0x11FF);
}

bool gr_normalize_form_is_identity(const char *text, size_t len, bool compose, bool compat) {
    for (size_t i = 0; i < len;) {
        int32_t cp;
        if ((unsigned char)text[i] < 128) {
            i++;
            continue;
        }
        i += gr_utf8_decode(text + i, len - i, &cp);
        if (!inert(cp, compose, compat)) return false;
    }
    return true;
}
