/* A byte trie, walked from every place where a pattern can begin. Patterns are bounded in length, so that the walk is;
 * a table of first bytes passes over ordinary text at memory speed. */
#include "text/added.h"
#include "text/unicode.h"

enum { MAX_PATTERN = 4096 };

typedef struct node {
    uint32_t child, sibling; /* 0: none (node 0 is the root) */
    uint32_t token;          /* index + 1, 0: none */
    unsigned char byte;
} node;

struct gr_matcher {
    const graft_allocator *a;
    node *nodes;
    size_t n, cap;
    gr_added_token *tokens;
    size_t n_tokens, tokens_cap;
    uint32_t first[256]; /* the root's children */
};

graft_status gr_matcher_new(const graft_allocator *a, gr_matcher **out, graft_error *err) {
    gr_matcher *m = gr_calloc(a, 1, sizeof *m);
    if (!m) return gr_fail_memory(err);
    m->a = a;
    m->n = 1; /* node 0 stands for "none" */
    graft_status st = gr_grow(a, (void **)&m->nodes, &m->cap, 1, sizeof *m->nodes, err);
    if (st != GRAFT_OK) {
        gr_matcher_free(m);
        return st;
    }
    m->nodes[0] = (node){0};
    *out = m;
    return GRAFT_OK;
}

void gr_matcher_free(gr_matcher *m) {
    if (!m) return;
    gr_free(m->a, m->nodes);
    gr_free(m->a, m->tokens);
    gr_free(m->a, m);
}

static uint32_t find_child(const gr_matcher *m, uint32_t parent, unsigned char byte) {
    if (!parent) return m->first[byte];
    uint32_t c = m->nodes[parent].child;
    while (c && m->nodes[c].byte != byte) c = m->nodes[c].sibling;
    return c;
}

static graft_status add_child(gr_matcher *m, uint32_t parent, unsigned char byte, uint32_t *out, graft_error *err) {
    if (m->n >= UINT32_MAX) return gr_fail(err, GRAFT_ERR_LIMIT, "added tokens are too many");
    GR_TRY(gr_grow(m->a, (void **)&m->nodes, &m->cap, m->n + 1, sizeof *m->nodes, err));
    const uint32_t c = (uint32_t)m->n++;
    m->nodes[c] = (node){.byte = byte};
    if (parent) {
        m->nodes[c].sibling = m->nodes[parent].child;
        m->nodes[parent].child = c;
    } else {
        m->first[byte] = c;
    }
    *out = c;
    return GRAFT_OK;
}

graft_status gr_matcher_add(gr_matcher *m, const char *pattern, size_t len, const gr_added_token *token,
                            graft_error *err) {
    if (len > MAX_PATTERN)
        return gr_fail(err, GRAFT_ERR_LIMIT, "added token '%.40s...' of %zu bytes is longer than %d", pattern, len,
                       MAX_PATTERN);
    uint32_t at = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t next = find_child(m, at, (unsigned char)pattern[i]);
        if (!next) GR_TRY(add_child(m, at, (unsigned char)pattern[i], &next, err));
        at = next;
    }
    if (m->nodes[at].token) {
        m->tokens[m->nodes[at].token - 1] = *token;
        return GRAFT_OK;
    }
    GR_TRY(gr_grow(m->a, (void **)&m->tokens, &m->tokens_cap, m->n_tokens + 1, sizeof *m->tokens, err));
    m->tokens[m->n_tokens++] = *token;
    m->nodes[at].token = (uint32_t)m->n_tokens;
    return GRAFT_OK;
}

/* The longest pattern at text[at..]; NULL: none. */
static const gr_added_token *longest(const gr_matcher *m, const char *text, size_t len, size_t at, size_t *end) {
    const gr_added_token *found = NULL;
    uint32_t n = 0;
    for (size_t i = at; i < len && (n = find_child(m, n, (unsigned char)text[i])) != 0; i++)
        if (m->nodes[n].token) {
            found = &m->tokens[m->nodes[n].token - 1];
            *end = i + 1;
        }
    return found;
}

static size_t char_before(const char *text, size_t at, int32_t *cp) {
    size_t start = at - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80) start--;
    gr_utf8_decode(text + start, at - start, cp);
    return start;
}

static bool is_single_word(const gr_matcher_iter *it, size_t start, size_t end) {
    int32_t cp;
    if (start > 0) {
        char_before(it->text, start, &cp);
        if (gr_cp_is_word(cp)) return false;
    }
    if (end < it->len) {
        gr_utf8_decode(it->text + end, it->len - end, &cp);
        if (gr_cp_is_word(cp)) return false;
    }
    return true;
}

/* Finds the next token that counts; false when there is none left. */
static bool advance(gr_matcher_iter *it) {
    while (it->from < it->len) {
        if (!it->m->first[(unsigned char)it->text[it->from]]) {
            it->from++;
            continue;
        }
        size_t start = it->from, end;
        const gr_added_token *t = longest(it->m, it->text, it->len, start, &end);
        if (!t) {
            it->from++;
            continue;
        }
        it->from = end;
        if ((it->no_special && t->special) || (t->single_word && !is_single_word(it, start, end))) continue;
        int32_t cp;
        if (t->lstrip && start < it->done) start = it->done; /* what the token before it stripped */
        while (t->lstrip && start > it->done) {
            size_t before = char_before(it->text, start, &cp);
            if (!gr_cp_is_space(cp)) break;
            start = before;
        }
        while (t->rstrip && end < it->len) {
            size_t n = gr_utf8_decode(it->text + end, it->len - end, &cp);
            if (!gr_cp_is_space(cp)) break;
            end += n;
        }
        if (start >= end) continue;
        it->id = t->id;
        it->start = start;
        it->end = end;
        return true;
    }
    return false;
}

bool gr_matcher_next(gr_matcher_iter *it, int32_t *id, size_t *start, size_t *end) {
    if (!it->pending && it->m && advance(it)) {
        if (it->done < it->start) {
            it->pending = true;
            *id = -1;
            *start = it->done;
            *end = it->start;
            return true;
        }
        it->pending = true;
    }
    if (it->pending) {
        it->pending = false;
        *id = it->id;
        *start = it->start;
        *end = it->end;
        it->done = it->end;
        return true;
    }
    if (it->done >= it->len) return false;
    *id = -1;
    *start = it->done;
    *end = it->len;
    it->done = it->len;
    return true;
}
