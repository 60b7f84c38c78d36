#include "eval/metrics.h"

static void strip(const char **text, size_t *n) {
    size_t start = 0, end = 0, used;
    bool any = false;
    for (size_t i = 0; i < *n; i += used) {
        int32_t cp;
        used = gr_utf8_decode(*text + i, *n - i, &cp);
        if (cp >= 0 && gr_is_white(cp)) continue;
        if (!any) start = i;
        any = true;
        end = i + used;
    }
    *text += start;
    *n = end - start;
}

static bool is_dropped(int32_t cp, unsigned flags) {
    return ((flags & GRAFT_MATCH_IGNORE_PUNCTUATION) && gr_is_punctuation(cp)) ||
           ((flags & GRAFT_MATCH_IGNORE_NUMBERS) && cp >= '0' && cp <= '9');
}

static void normalise(gr_buf *out, gr_buf *scratch, const char *text, size_t n, unsigned flags) {
    if (flags & GRAFT_MATCH_STRIP) strip(&text, &n);
    if (flags & GRAFT_MATCH_IGNORE_CASE) {
        gr_text_lower(scratch, text, n);
        text = gr_buf_text(scratch);
        n = scratch->len;
    }
    for (size_t i = 0; i < n; i++)
        if (!is_dropped((unsigned char)text[i], flags)) gr_buf_add_char(out, text[i]);
}

graft_status graft_exact_match(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                               size_t prediction_len, unsigned flags, int *out, graft_error *err) {
    gr_buf part[4]; /* the two texts, and scratch for each */
    for (int i = 0; i < 4; i++) gr_buf_init(&part[i], gr_allocator(ctx));
    normalise(&part[0], &part[2], target, target_len, flags);
    normalise(&part[1], &part[3], prediction, prediction_len, flags);
    graft_status st = GRAFT_OK;
    for (int i = 0; i < 4 && st == GRAFT_OK; i++) st = gr_buf_status(&part[i], err);
    if (st == GRAFT_OK)
        *out = part[0].len == part[1].len && memcmp(gr_buf_text(&part[0]), gr_buf_text(&part[1]), part[0].len) == 0;
    for (int i = 0; i < 4; i++) gr_buf_free(&part[i]);
    return st;
}

/* One word of SQuAD's normalised text; articles count as none. */
static graft_status count_word(gr_map *counts, const char *word, size_t n, size_t *total, graft_error *err) {
    int64_t old = 0;
    if (n == 0) return GRAFT_OK;
    gr_map_get(counts, word, n, &old);
    GR_TRY(gr_map_set(counts, word, n, old + 1, err));
    ++*total;
    return GRAFT_OK;
}

static bool is_article(const char *word, size_t n) {
    return (n == 1 && word[0] == 'a') || (n == 2 && memcmp(word, "an", 2) == 0) ||
           (n == 3 && memcmp(word, "the", 3) == 0);
}

/* An article is a run of letters and digits and nothing else, wherever it stands: it leaves a space behind. */
static void remove_articles(gr_buf *out, const char *text, size_t n) {
    size_t run = 0, used;
    for (size_t i = 0; i <= n; i += used) {
        int32_t cp = -1;
        used = i < n ? gr_utf8_decode(text + i, n - i, &cp) : 1;
        if (cp >= 0 && gr_is_alphanumeric(cp)) continue;
        if (is_article(text + run, i - run)) gr_buf_add_char(out, ' ');
        else gr_buf_add(out, text + run, i - run);
        if (i < n) gr_buf_add(out, text + i, used);
        run = i + used;
    }
}

static graft_status squad_words(const graft_allocator *a, const char *text, size_t len, gr_map *counts, size_t *total,
                                graft_error *err) {
    gr_buf lower, plain, words;
    gr_buf_init(&lower, a);
    gr_buf_init(&plain, a);
    gr_buf_init(&words, a);
    gr_text_lower(&lower, text, len);
    for (size_t i = 0; i < lower.len; i++)
        if (!gr_is_punctuation((unsigned char)lower.data[i])) gr_buf_add_char(&plain, lower.data[i]);
    remove_articles(&words, gr_buf_text(&plain), plain.len);
    graft_status st = gr_buf_status(&lower, err);
    if (st == GRAFT_OK) st = gr_buf_status(&plain, err);
    if (st == GRAFT_OK) st = gr_buf_status(&words, err);
    const char *t = gr_buf_text(&words);
    for (size_t i = 0, start = 0, used; st == GRAFT_OK && i <= words.len; i += used) {
        int32_t cp = ' ';
        used = i < words.len ? gr_utf8_decode(t + i, words.len - i, &cp) : 1;
        if (!gr_is_white(cp)) continue;
        st = count_word(counts, t + start, i - start, total, err);
        start = i + used;
    }
    gr_buf_free(&lower);
    gr_buf_free(&plain);
    gr_buf_free(&words);
    return st;
}

graft_status graft_token_f1(graft_context *ctx, const char *target, size_t target_len, const char *prediction,
                            size_t prediction_len, graft_score *out, graft_error *err) {
    const graft_allocator *a = gr_allocator(ctx);
    gr_map want, have;
    size_t n_want = 0, n_have = 0, same = 0;
    gr_map_init(&want, a);
    gr_map_init(&have, a);
    graft_status st = squad_words(a, target, target_len, &want, &n_want, err);
    if (st == GRAFT_OK) st = squad_words(a, prediction, prediction_len, &have, &n_have, err);
    for (size_t i = 0; i < want.n; i++) {
        int64_t n;
        if (gr_map_get(&have, want.entries[i].key, want.entries[i].key_len, &n))
            same += (size_t)GR_MIN(n, want.entries[i].value);
    }
    gr_map_free(&want);
    gr_map_free(&have);
    if (st != GRAFT_OK) return st;
    graft_score s = {0};
    if (same) {
        s.precision = (double)same / (double)n_have;
        s.recall = (double)same / (double)n_want;
        s.fmeasure = 2 * s.precision * s.recall / (s.precision + s.recall);
    }
    *out = s;
    return GRAFT_OK;
}
