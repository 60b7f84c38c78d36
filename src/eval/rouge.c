/* ROUGE as rouge-score computes it. Words are runs of a-z and 0-9 after lower case; everything else
 * separates. They are numbered, so that comparing two words is comparing two integers.
 *
 *   ROUGE-N      matches = sum over n-grams of min(count in target, count in prediction)
 *   ROUGE-L      matches = length of the longest common subsequence
 *   ROUGE-Lsum   for each line of the target the union of its common subsequences with all lines of the
 * prediction, each word counted at most as often as it stands in either text precision = matches / in
 * prediction, recall = matches / in target, F = 2PR / (P + R)
 *
 * The union depends on which of several longest subsequences is read off, so the table is walked back as
 * there: on a tie towards the shorter target. One bit a cell is enough for that. */
#include "eval/metrics.h"

typedef struct words {
    int32_t *ids;
    size_t n, cap;
} words;

typedef struct scorer {
    const graft_allocator *a;
    gr_map numbers; /* word -> number */
    gr_buf word;
    bool stem;
} scorer;

static graft_status end_word(scorer *s, words *w, graft_error *err) {
    int64_t id;
    GR_TRY(gr_buf_status(&s->word, err));
    size_t n = s->word.len;
    if (s->stem && n > 3) n = gr_porter_stem(s->word.data, n);
    if (n && !gr_map_get(&s->numbers, s->word.data, n, &id)) {
        id = (int64_t)s->numbers.n;
        GR_TRY(gr_map_set(&s->numbers, s->word.data, n, id, err));
    }
    if (n) {
        GR_TRY(gr_grow(s->a, (void **)&w->ids, &w->cap, w->n + 1, sizeof *w->ids, err));
        w->ids[w->n++] = (int32_t)id;
    }
    gr_buf_clear(&s->word);
    return GRAFT_OK;
}

static graft_status add_words(scorer *s, words *w, const char *text, size_t len, graft_error *err) {
    gr_buf_clear(&s->word);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 'A' && c <= 'Z') c += 32;
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            gr_buf_add_char(&s->word, (char)c);
        } else if (len - i >= 3 && memcmp(text + i, "\xE2\x84\xAA", 3) == 0) { /* U+212A, Kelvin: lower case is k */
            gr_buf_add_char(&s->word, 'k');
            i += 2;
        } else if (len - i >= 2 && memcmp(text + i, "\xC4\xB0", 2) == 0) { /* U+0130: lower case is i and a dot above */
            gr_buf_add_char(&s->word, 'i');
            GR_TRY(end_word(s, w, err));
            i++;
        } else {
            GR_TRY(end_word(s, w, err));
        }
    }
    return end_word(s, w, err);
}

static graft_score make_score(size_t matches, size_t target, size_t prediction) {
    graft_score s = {prediction ? (double)matches / (double)prediction : 0,
                     target ? (double)matches / (double)target : 0, 0};
    if (s.precision + s.recall > 0) s.fmeasure = 2 * s.precision * s.recall / (s.precision + s.recall);
    return s;
}

static graft_status count_bigrams(gr_map *m, const words *w, graft_error *err) {
    for (size_t i = 0; i + 1 < w->n; i++) {
        int64_t n = 0;
        gr_map_get(m, (const char *)(w->ids + i), 2 * sizeof *w->ids, &n);
        GR_TRY(gr_map_set(m, (const char *)(w->ids + i), 2 * sizeof *w->ids, n + 1, err));
    }
    return GRAFT_OK;
}

static graft_status score_bigrams(scorer *s, const words *target, const words *prediction, graft_score *out,
                                  graft_error *err) {
    gr_map a, b;
    gr_map_init(&a, s->a);
    gr_map_init(&b, s->a);
    graft_status st = count_bigrams(&a, target, err);
    if (st == GRAFT_OK) st = count_bigrams(&b, prediction, err);
    size_t matches = 0;
    for (size_t i = 0; i < a.n; i++) {
        int64_t n;
        if (gr_map_get(&b, a.entries[i].key, a.entries[i].key_len, &n))
            matches += (size_t)GR_MIN(n, a.entries[i].value);
    }
    gr_map_free(&a);
    gr_map_free(&b);
    if (st == GRAFT_OK)
        *out = make_score(matches, target->n ? target->n - 1 : 0, prediction->n ? prediction->n - 1 : 0);
    return st;
}

/* Counts of each word number; freed by the caller. */
static graft_status count_words(const scorer *s, const words *w, uint32_t **out, graft_error *err) {
    uint32_t *count = gr_calloc(s->a, s->numbers.n + 1, sizeof *count);
    if (!count) return gr_fail_memory(err);
    for (size_t i = 0; i < w->n; i++) count[w->ids[i]]++;
    *out = count;
    return GRAFT_OK;
}

/* Lengths of the longest common subsequences, row by row; `up` (rows x cols bits, may be NULL) remembers where the walk
 * back leaves a cell upwards. Returns the length. `row` holds cols + 1. */
static uint32_t lcs_table(const int32_t *ref, size_t rows, const int32_t *can, size_t cols, uint32_t *row,
                          uint8_t *up) {
    memset(row, 0, (cols + 1) * sizeof *row);
    for (size_t i = 0; i < rows; i++) {
        uint32_t diagonal = 0;
        for (size_t j = 0; j < cols; j++) {
            uint32_t above = row[j + 1], left = row[j];
            row[j + 1] = ref[i] == can[j] ? diagonal + 1 : GR_MAX(above, left);
            if (up && !(left > above)) up[(i * cols + j) / 8] |= (uint8_t)(1u << ((i * cols + j) % 8));
            diagonal = above;
        }
    }
    return row[cols];
}

static graft_status score_lcs(const scorer *s, const words *target, const words *prediction, graft_score *out,
                              graft_error *err) {
    uint32_t *row = gr_calloc(s->a, prediction->n + 1, sizeof *row);
    if (!row) return gr_fail_memory(err);
    uint32_t n = lcs_table(target->ids, target->n, prediction->ids, prediction->n, row, NULL);
    gr_free(s->a, row);
    *out = make_score(n, target->n, prediction->n);
    return GRAFT_OK;
}

/* Marks in `hit` the words of `ref` that a longest common subsequence with `can` goes through. */
static graft_status mark_lcs(const scorer *s, const words *ref, const words *can, uint8_t *hit, graft_error *err) {
    size_t cells;
    if (__builtin_mul_overflow(ref->n, can->n, &cells)) return gr_fail_memory(err);
    uint32_t *row = gr_calloc(s->a, can->n + 1, sizeof *row);
    uint8_t *up = gr_calloc(s->a, cells / 8 + 1, 1);
    if (row && up) {
        lcs_table(ref->ids, ref->n, can->ids, can->n, row, up);
        size_t i = ref->n, j = can->n;
        while (i > 0 && j > 0) {
            size_t cell = (i - 1) * can->n + j - 1;
            if (ref->ids[i - 1] == can->ids[j - 1]) {
                hit[--i] = 1;
                j--;
            } else if (up[cell / 8] >> (cell % 8) & 1) {
                i--;
            } else {
                j--;
            }
        }
    }
    bool made = row && up;
    gr_free(s->a, row);
    gr_free(s->a, up);
    return made ? GRAFT_OK : gr_fail_memory(err);
}

/* Line after line of `text`; `*at` is where the next one starts. False at the end. */
static bool next_line(const char *text, size_t len, size_t *at, const char **line, size_t *n) {
    if (*at > len) return false;
    const char *end = memchr(text + *at, '\n', len - *at);
    *line = text + *at;
    *n = end ? (size_t)(end - *line) : len - *at;
    *at += *n + 1;
    return true;
}

typedef struct text {
    const char *data;
    size_t len;
} text;

static graft_status line_words(scorer *s, const char *line, size_t n, words *w, graft_error *err) {
    w->n = 0;
    return add_words(s, w, line, n, err);
}

static graft_status count_lines(scorer *s, text target, text prediction, uint32_t *left_target,
                                uint32_t *left_prediction, size_t *matches, graft_error *err) {
    words ref = {0}, can = {0};
    uint8_t *hit = NULL;
    graft_status st = GRAFT_OK;
    const char *line;
    for (size_t at = 0, n; st == GRAFT_OK && next_line(target.data, target.len, &at, &line, &n);) {
        st = line_words(s, line, n, &ref, err);
        gr_free(s->a, hit);
        hit = NULL;
        if (st == GRAFT_OK && !(hit = gr_calloc(s->a, ref.n + 1, 1))) st = gr_fail_memory(err);
        const char *other;
        for (size_t from = 0, m; st == GRAFT_OK && next_line(prediction.data, prediction.len, &from, &other, &m);) {
            st = line_words(s, other, m, &can, err);
            if (st == GRAFT_OK) st = mark_lcs(s, &ref, &can, hit, err);
        }
        for (size_t i = 0; st == GRAFT_OK && i < ref.n; i++) {
            uint32_t *a = &left_target[ref.ids[i]], *b = &left_prediction[ref.ids[i]];
            if (!hit[i] || !*a || !*b) continue;
            ++*matches;
            --*a;
            --*b;
        }
    }
    gr_free(s->a, hit);
    gr_free(s->a, ref.ids);
    gr_free(s->a, can.ids);
    return st;
}

static graft_status score_all(scorer *s, text target, text prediction, words *t, words *p, graft_rouge *out,
                              graft_error *err) {
    graft_rouge r;
    uint32_t *a = NULL, *b = NULL;
    GR_TRY(add_words(s, t, target.data, target.len, err));
    GR_TRY(add_words(s, p, prediction.data, prediction.len, err));
    GR_TRY(score_bigrams(s, t, p, &r.rouge2, err));
    GR_TRY(score_lcs(s, t, p, &r.rougeL, err));
    graft_status st = count_words(s, t, &a, err);
    if (st == GRAFT_OK) st = count_words(s, p, &b, err);
    if (st == GRAFT_OK) {
        size_t matches = 0;
        for (size_t i = 0; i < s->numbers.n; i++) matches += GR_MIN(a[i], b[i]);
        r.rouge1 = make_score(matches, t->n, p->n);
        matches = 0;
        st = count_lines(s, target, prediction, a, b, &matches, err);
        r.rougeLsum = make_score(matches, t->n, p->n);
    }
    gr_free(s->a, a);
    gr_free(s->a, b);
    if (st == GRAFT_OK) *out = r;
    return st;
}

graft_status graft_rouge_score(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                               size_t prediction_len, int stem, graft_rouge *out, graft_error *err) {
    scorer s = {.a = gr_allocator(ctx), .stem = stem != 0};
    words t = {0}, p = {0};
    gr_map_init(&s.numbers, s.a);
    gr_buf_init(&s.word, s.a);
    graft_status st = score_all(&s, (text){target, target_len}, (text){prediction, prediction_len}, &t, &p, out, err);
    gr_map_free(&s.numbers);
    gr_buf_free(&s.word);
    gr_free(s.a, t.ids);
    gr_free(s.a, p.ids);
    return st;
}
