/* BLEU (Papineni et al. 2002) as sacrebleu 2.6 computes it by default: mteval-v13a's words, up to four words
 * at a time, counts summed over the whole corpus, orders without a match smoothed by 1/2, 1/4, ... */
#include <math.h>
#include <stdlib.h>

#include "eval/metrics.h"

enum { ORDER = GRAFT_BLEU_ORDER };

/* --- Words -------------------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_stop(char c) { return c == '.' || c == ','; }

/* ASCII punctuation but the apostrophe, and . , - whose neighbours decide. */
static bool stands_alone(char c) {
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') || (c >= '(' && c <= '+') ||
           (c >= ':' && c <= '@') || c == '/';
}

static void replace(gr_buf *out, const char *text, size_t n, const char *from, const char *to) {
    size_t m = strlen(from);
    for (size_t i = 0; i < n;)
        if (n - i >= m && memcmp(text + i, from, m) == 0) {
            gr_buf_add_text(out, to);
            i += m;
        } else
            gr_buf_add_char(out, text[i++]);
}

/* The four rules, each over the whole line: spaces around a character, or between two. Bytes of a character
 * that is not ASCII count as no digit, as the character does. */
static void apply_rule(gr_buf *out, const char *s, size_t n, int rule) {
    for (size_t i = 0; i < n; i++) {
        char c = s[i], next = i + 1 < n ? s[i + 1] : '\0';
        bool pair = i + 1 < n;
        if (rule == 0 && stands_alone(c)) {
            gr_buf_add_format(out, " %c ", c);
        } else if (rule == 1 && pair && !is_digit(c) && is_stop(next)) {
            gr_buf_add_format(out, "%c %c ", c, next);
            i++;
        } else if (rule == 2 && pair && is_stop(c) && !is_digit(next)) {
            gr_buf_add_format(out, " %c %c", c, next);
            i++;
        } else if (rule == 3 && pair && is_digit(c) && next == '-') {
            gr_buf_add_format(out, "%c %c ", c, next);
            i++;
        } else
            gr_buf_add_char(out, c);
    }
}

static size_t trimmed(const char *text, size_t n) {
    size_t end = 0, used;
    for (size_t i = 0; i < n; i += used) {
        int32_t cp;
        used = gr_utf8_decode(text + i, n - i, &cp);
        if (cp < 0 || !gr_is_white(cp)) end = i + used;
    }
    return end;
}

/* The line with its words apart, in *line; *other is scratch. */
static graft_status split_words(gr_buf *line, gr_buf *other, const char *text, size_t n, graft_error *err) {
    static const char *const changes[][2] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                                             {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};
    gr_buf_add(line, text, trimmed(text, n));
    GR_TRY(gr_buf_status(line, err));
    for (size_t i = 0; i < GR_COUNT(changes) + 1 + 4; i++) {
        gr_buf_clear(other);
        if (i < GR_COUNT(changes))
            replace(other, gr_buf_text(line), line->len, changes[i][0], changes[i][1]);
        else if (i == GR_COUNT(changes)) {
            gr_buf_add_char(other, ' ');
            gr_buf_add(other, gr_buf_text(line), line->len);
            gr_buf_add_char(other, ' ');
        } else
            apply_rule(other, gr_buf_text(line), line->len, (int)(i - GR_COUNT(changes) - 1));
        GR_TRY(gr_buf_status(other, err));
        gr_buf swap = *line;
        *line = *other;
        *other = swap;
    }
    return GRAFT_OK;
}

/* --- Counts ------------------------------------------------------------------------------------------------------- */

typedef struct words {
    int32_t *ids;
    size_t n, cap;
} words;

/* Words of a line as numbers, the same in both texts. */
static graft_status number_words(const graft_allocator *a, gr_map *known, const gr_buf *line, words *out,
                                 graft_error *err) {
    const char *s = gr_buf_text(line);
    for (size_t i = 0, used; i < line->len;) {
        size_t begin = i;
        int32_t cp = 0;
        for (; i < line->len; i += used) {
            used = gr_utf8_decode(s + i, line->len - i, &cp);
            if (cp >= 0 && gr_is_white(cp)) break;
        }
        if (i > begin) {
            int64_t id = (int64_t)known->n;
            if (!gr_map_get(known, s + begin, i - begin, &id)) GR_TRY(gr_map_set(known, s + begin, i - begin, id, err));
            GR_TRY(gr_grow(a, (void **)&out->ids, &out->cap, out->n + 1, sizeof *out->ids, err));
            out->ids[out->n++] = (int32_t)id;
        }
        if (i < line->len) i += used;
    }
    return GRAFT_OK;
}

typedef struct gram {
    int32_t id[ORDER]; /* -1 behind the last */
} gram;

static int by_words(const void *a, const void *b) {
    const gram *x = a, *y = b;
    for (int i = 0; i < ORDER; i++)
        if (x->id[i] != y->id[i]) return x->id[i] < y->id[i] ? -1 : 1;
    return 0;
}

static size_t sorted_grams(const words *w, int order, gram *out) {
    size_t n = w->n >= (size_t)order ? w->n - (size_t)order + 1 : 0;
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < ORDER; k++) out[i].id[k] = k < order ? w->ids[i + (size_t)k] : -1;
    if (n) qsort(out, n, sizeof *out, by_words);
    return n;
}

/* How many of the prediction's are in the target, each as often as it stands there at most. */
static uint64_t common(const gram *x, size_t n, const gram *y, size_t m) {
    uint64_t found = 0;
    for (size_t i = 0, k = 0; i < n && k < m;) {
        int order = by_words(&x[i], &y[k]);
        found += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    return found;
}

static graft_status count(const graft_allocator *a, const words *target, const words *prediction,
                          graft_bleu *b, graft_error *err) {
    gram *x = gr_calloc(a, prediction->n + 1, sizeof *x), *y = gr_calloc(a, target->n + 1, sizeof *y);
    graft_status st = x && y ? GRAFT_OK : gr_fail_memory(err);
    for (int order = 1; order <= ORDER && st == GRAFT_OK; order++) {
        size_t n = sorted_grams(prediction, order, x), m = sorted_grams(target, order, y);
        b->total[order - 1] += n;
        b->correct[order - 1] += common(x, n, y, m);
    }
    if (st == GRAFT_OK) {
        b->prediction_length += prediction->n;
        b->target_length += target->n;
    }
    gr_free(a, x);
    gr_free(a, y);
    return st;
}

graft_status graft_bleu_add(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                            size_t prediction_len, graft_bleu *b, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    gr_buf line[2], scratch;
    words w[2] = {{0}};
    gr_map known;
    graft_status st = GRAFT_OK;
    gr_map_init(&known, a);
    gr_buf_init(&scratch, a);
    for (int i = 0; i < 2; i++) {
        gr_buf_init(&line[i], a);
        if (st == GRAFT_OK)
            st = split_words(&line[i], &scratch, i ? prediction : target, i ? prediction_len : target_len,
                             err);
        if (st == GRAFT_OK) st = number_words(a, &known, &line[i], &w[i], err);
    }
    if (st == GRAFT_OK) st = count(a, &w[0], &w[1], b, err);
    for (int i = 0; i < 2; i++) {
        gr_buf_free(&line[i]);
        gr_free(a, w[i].ids);
    }
    gr_buf_free(&scratch);
    gr_map_free(&known);
    return st;
}

/* --- Score -------------------------------------------------------------------------------------------------------- */

double graft_bleu_score(const graft_bleu *b) {
    double sum = 0, smooth = 1, penalty = 1;
    uint64_t any = 0;
    for (int i = 0; i < ORDER; i++) any |= b->correct[i];
    if (!any) return 0;
    if (b->prediction_length < b->target_length)
        penalty = exp(1 - (double)b->target_length / (double)b->prediction_length);
    for (int i = 0; i < ORDER; i++) {
        if (!b->total[i]) return 0; /* texts of fewer words have no such order, and no score */
        if (!b->correct[i]) smooth *= 2;
        sum += log(b->correct[i] ? 100 * (double)b->correct[i] / (double)b->total[i]
                                 : 100 / (smooth * (double)b->total[i]));
    }
    return penalty * exp(sum / ORDER);
}
