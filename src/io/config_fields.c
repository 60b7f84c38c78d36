#include "io/config_fields.h"

#include <math.h>
#include <stdio.h>

void gr_field_fail(gr_fields *f, graft_status st, const char *key, const char *format, ...) {
    if (f->st != GRAFT_OK) return;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    f->st = gr_fail(f->err, st, "%s: %s%s: %s", f->file, f->where, key, text);
}

const gr_json_value *gr_field(const gr_fields *f, const char *key) {
    const gr_json_value *v = gr_json_get(f->object, key);
    return v && v->kind != GR_JSON_NULL ? v : NULL;
}

bool gr_field_is_null(const gr_fields *f, const char *key) {
    const gr_json_value *v = gr_json_get(f->object, key);
    return v && v->kind == GR_JSON_NULL;
}

static bool whole(const gr_json_value *v, int64_t *out) {
    if (v->kind != GR_JSON_NUMBER) return false;
    if (v->number.is_int) return *out = v->number.i, true;
    double d = v->number.d;
    if (!(d >= -0x1p53 && d <= 0x1p53) || d != floor(d)) return false;
    *out = (int64_t)d;
    return true;
}

int64_t gr_field_int(gr_fields *f, const char *key, int64_t absent, int64_t min, int64_t max) {
    const gr_json_value *v = gr_field(f, key);
    int64_t i;
    if (!v || f->st != GRAFT_OK) return absent;
    if (!whole(v, &i)) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected an integer, found %s", gr_json_no_integer(v));
        return absent;
    }
    if (i >= min && i <= max) return i;
    gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected %lld to %lld, found %lld", (long long)min, (long long)max,
                  (long long)i);
    return absent;
}

double gr_field_double(gr_fields *f, const char *key, double absent, double min, double max) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || f->st != GRAFT_OK) return absent;
    if (v->kind != GR_JSON_NUMBER) {
        gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected a number, found %s", gr_json_kind_name(v->kind));
        return absent;
    }
    if (v->number.d >= min && v->number.d <= max) return v->number.d;
    gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected %g to %g, found %g", min, max, v->number.d);
    return absent;
}

bool gr_field_bool(gr_fields *f, const char *key, bool absent) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || f->st != GRAFT_OK) return absent;
    if (v->kind == GR_JSON_TRUE || v->kind == GR_JSON_FALSE) return v->kind == GR_JSON_TRUE;
    gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected true or false, found %s", gr_json_kind_name(v->kind));
    return absent;
}

const char *gr_field_text(gr_fields *f, const char *key) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || f->st != GRAFT_OK) return NULL;
    if (v->kind == GR_JSON_STRING && strlen(v->text) == v->len) return v->text;
    gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected a string without NUL, found %s", gr_json_kind_name(v->kind));
    return NULL;
}

int gr_field_ids(gr_fields *f, const char *key, int64_t *out, int max) {
    const gr_json_value *v = gr_field(f, key);
    if (!v || f->st != GRAFT_OK) return 0;
    int n = 0;
    bool list = v->kind == GR_JSON_ARRAY;
    for (const gr_json_value *c = list ? v->child : v; c; c = list ? c->next : NULL) {
        int64_t id;
        if (!whole(c, &id) || id < -1 || id > INT32_MAX) {
            gr_field_fail(f, GRAFT_ERR_FORMAT, key, "expected token ids, found %s", gr_json_kind_name(c->kind));
            return 0;
        }
        if (id < 0) continue; /* -1 is an old spelling of "none" */
        if (n == max) {
            gr_field_fail(f, GRAFT_ERR_LIMIT, key, "expected at most %d token ids", max);
            return 0;
        }
        out[n++] = id;
    }
    return n;
}
