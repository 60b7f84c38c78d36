/* Dictionaries: insertion order, keys equal as in Python (1, 1.0 and true are one key). */
#include "text/jinja_run.h"

enum { SMALL = 8 }; /* keys that are searched without an index */

static uint64_t mix(uint64_t h) {
    h *= 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

static uint64_t hash_text(const char *p, size_t n) { return gr_hash_bytes(p, n, 1); }

graft_status gr_j_hash(gr_jrun *run, gr_jv v, uint64_t *out) {
    switch (v.kind) {
    case GR_JSTR: *out = hash_text(v.str->p, v.str->len); return gr_j_work(run, v.str->len);
    case GR_JBOOL:
    case GR_JINT:
    case GR_JFLOAT: {
        int64_t i;
        if (gr_j_as_int(v, &i) || (v.f >= -0x1p62 && v.f <= 0x1p62 && (double)(i = (int64_t)v.f) == v.f)) {
            *out = mix((uint64_t)i);
            return GRAFT_OK;
        }
        *out = gr_hash_bytes(&v.f, sizeof v.f, 2);
        return GRAFT_OK;
    }
    case GR_JNONE:
    case GR_JUNDEFINED: *out = mix((uint64_t)v.kind + 1000); return GRAFT_OK;
    case GR_JTUPLE: {
        uint64_t h = 3, item;
        GR_TRY(gr_j_enter_value(run));
        for (size_t i = 0; i < v.seq->n; i++) {
            GR_TRY(gr_j_hash(run, v.seq->items[i], &item));
            h = mix(h ^ item);
        }
        run->value_depth--;
        *out = h;
        return GRAFT_OK;
    }
    case GR_JLIST:
    case GR_JDICT:
    case GR_JSLICE: return gr_j_raise(run, "unhashable type: '%s'", gr_j_type(v));
    case GR_JVIEW:
        if (v.view->which != 'v') return gr_j_raise(run, "unhashable type: '%s'", gr_j_type(v));
        break;
    case GR_JRANGE: *out = mix((uint64_t)v.range->n); return GRAFT_OK;
    default: break;
    }
    *out = mix((uint64_t)(uintptr_t)v.p);
    return GRAFT_OK;
}

graft_status gr_j_dict(gr_jrun *run, gr_jv *out) {
    gr_jdict *d = gr_j_new(run, sizeof *d);
    if (!d) return gr_j_no_memory(run);
    *out = (gr_jv){.kind = GR_JDICT, .dict = d};
    return GRAFT_OK;
}

/* The entry of `key`, or d->n. With `text` the key is that string and nothing can fail. */
static graft_status find(gr_jrun *run, const gr_jdict *d, gr_jv key, const gr_jstr *text, uint64_t hash, size_t *at) {
    size_t mask = d->n_slots - 1, slot = hash & mask;
    for (size_t i = 0; d->n_slots ? d->slots[slot] != 0 : i < d->n; i++, slot = (slot + 1) & mask) {
        size_t e = d->n_slots ? d->slots[slot] - 1 : i;
        const gr_jentry *entry = &d->entries[e];
        if (entry->hash != hash) continue;
        bool same;
        if (entry->key.kind == GR_JSTR && (text || key.kind == GR_JSTR)) {
            const gr_jstr *a = entry->key.str, *b = text ? text : key.str;
            same = a->len == b->len && !memcmp(a->p, b->p, a->len);
        } else if (text) {
            same = false;
        } else {
            GR_TRY(gr_j_equal(run, entry->key, key, &same));
        }
        if (!same) continue;
        *at = e;
        return GRAFT_OK;
    }
    *at = d->n;
    return GRAFT_OK;
}

static graft_status build_index(gr_jrun *run, gr_jdict *d) {
    size_t n_slots = d->cap * 2;
    uint32_t *slots = gr_j_new(run, n_slots * sizeof *slots);
    if (!slots) return gr_j_no_memory(run);
    for (size_t i = 0; i < d->n; i++) {
        size_t slot = d->entries[i].hash & (n_slots - 1);
        while (slots[slot]) slot = (slot + 1) & (n_slots - 1);
        slots[slot] = (uint32_t)i + 1;
    }
    d->slots = slots;
    d->n_slots = n_slots;
    return GRAFT_OK;
}

static graft_status grow(gr_jrun *run, gr_jdict *d) {
    size_t cap = d->cap ? d->cap * 2 : 4;
    if (cap > UINT32_MAX / 2) return gr_j_fail(run, GRAFT_ERR_LIMIT, "too many keys in a dictionary");
    gr_jentry *entries = gr_j_new(run, cap * sizeof *entries);
    if (!entries) return gr_j_no_memory(run);
    if (d->n) memcpy(entries, d->entries, d->n * sizeof *entries);
    d->entries = entries;
    d->cap = cap;
    return cap > SMALL ? build_index(run, d) : GRAFT_OK;
}

graft_status gr_j_dict_set(gr_jrun *run, gr_jdict *d, gr_jv key, gr_jv value) {
    uint64_t hash;
    size_t at;
    GR_TRY(gr_j_hash(run, key, &hash));
    GR_TRY(find(run, d, key, NULL, hash, &at));
    if (at < d->n) {
        d->entries[at].value = value;
        return GRAFT_OK;
    }
    if (d->n == d->cap) GR_TRY(grow(run, d));
    d->entries[d->n++] = (gr_jentry){.key = key, .value = value, .hash = hash};
    if (d->n_slots) {
        size_t slot = hash & (d->n_slots - 1);
        while (d->slots[slot]) slot = (slot + 1) & (d->n_slots - 1);
        d->slots[slot] = (uint32_t)d->n;
    }
    return GRAFT_OK;
}

graft_status gr_j_dict_get(gr_jrun *run, const gr_jdict *d, gr_jv key, gr_jv *out, bool *found) {
    uint64_t hash;
    size_t at;
    GR_TRY(gr_j_hash(run, key, &hash));
    GR_TRY(find(run, d, key, NULL, hash, &at));
    *found = at < d->n;
    if (*found && out) *out = d->entries[at].value;
    return GRAFT_OK;
}

bool gr_j_dict_get_text(const gr_jdict *d, const char *key, size_t len, gr_jv *out) {
    size_t at;
    gr_jstr text = {.p = key, .len = len};
    find(NULL, d, (gr_jv){0}, &text, hash_text(key, len), &at);
    if (at == d->n) return false;
    if (out) *out = d->entries[at].value;
    return true;
}

graft_status gr_j_dict_merge(gr_jrun *run, gr_jdict *d, gr_jv from) {
    if (from.kind == GR_JDICT) {
        for (size_t i = 0; i < from.dict->n; i++)
            GR_TRY(gr_j_dict_set(run, d, from.dict->entries[i].key, from.dict->entries[i].value));
        return GRAFT_OK;
    }
    gr_jcursor c;
    gr_jv item, pair;
    bool more;
    GR_TRY(gr_j_cursor(run, from, &c));
    for (;;) {
        GR_TRY(gr_j_next(run, &c, &item, &more));
        if (!more) return GRAFT_OK;
        GR_TRY(gr_j_to_list(run, item, &pair));
        if (pair.seq->n != 2)
            return gr_j_raise(run, "dictionary update sequence element has length %zu; 2 is required", pair.seq->n);
        GR_TRY(gr_j_dict_set(run, d, pair.seq->items[0], pair.seq->items[1]));
    }
}
