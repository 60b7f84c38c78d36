/* Fields of a component's JSON, with the defaults that the reference library has. */
#ifndef GR_TEXT_JSON_FIELD_H
#define GR_TEXT_JSON_FIELD_H

#include "base/base.h"
#include "base/json.h"

static inline bool gr_json_is_none(const gr_json_value *v) { return !v || v->kind == GR_JSON_NULL; }

static inline bool gr_json_flag(const gr_json_value *json, const char *key, bool otherwise) {
    const gr_json_value *v = gr_json_get(json, key);
    return gr_json_is_none(v) ? otherwise : v->kind == GR_JSON_TRUE;
}

/* NULL when it is no string; `len` may be NULL. */
static inline const char *gr_json_string(const gr_json_value *v, size_t *len) {
    if (!v || v->kind != GR_JSON_STRING) return NULL;
    if (len) *len = v->len;
    return v->text;
}

static inline bool gr_json_integer(const gr_json_value *v, int64_t *out) {
    if (!v || v->kind != GR_JSON_NUMBER || !v->number.is_int) return false;
    *out = v->number.i;
    return true;
}

/* A string of one character. */
static inline bool gr_json_char(const gr_json_value *v, int32_t *cp) {
    size_t len = 0;
    const char *text = gr_json_string(v, &len);
    return len > 0 && gr_utf8_decode(text, len, cp) == len && *cp >= 0;
}

static inline const gr_json_value *gr_json_at(const gr_json_value *v, size_t i) {
    const gr_json_value *item = v && v->kind == GR_JSON_ARRAY ? v->child : NULL;
    while (item && i-- > 0) item = item->next;
    return item;
}

#endif
