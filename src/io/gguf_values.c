/* Typed access to GGUF metadata. */
#include "io/gguf.h"

static uint64_t load(const unsigned char *p, int bytes) {
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static bool is_int(gr_gguf_type type) {
    return type != GR_GGUF_F32 && type != GR_GGUF_F64 && type != GR_GGUF_BOOL && type != GR_GGUF_STRING &&
           type != GR_GGUF_ARRAY;
}

/* A u64 over INT64_MAX reads as INT64_MAX: no caller can use it. */
static int64_t int_at(gr_gguf_type type, const unsigned char *p) {
    switch (type) {
    case GR_GGUF_U8:
    case GR_GGUF_BOOL: return p[0];
    case GR_GGUF_I8: return (int8_t)p[0];
    case GR_GGUF_U16: return (int64_t)load(p, 2);
    case GR_GGUF_I16: return (int16_t)load(p, 2);
    case GR_GGUF_U32: return (int64_t)load(p, 4);
    case GR_GGUF_I32: return (int32_t)load(p, 4);
    default: {
        uint64_t v = load(p, 8);
        return type == GR_GGUF_U64 && v > INT64_MAX ? INT64_MAX : (int64_t)v;
    }
    }
}

static double float_at(gr_gguf_type type, const unsigned char *p) {
    if (type == GR_GGUF_F32) return gr_float_from_bits((uint32_t)load(p, 4));
    if (type != GR_GGUF_F64) return (double)int_at(type, p);
    uint64_t bits = load(p, 8);
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

static const int sizes[GR_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

int64_t gr_gguf_array_int(const gr_gguf_array *array, uint64_t i) {
    const unsigned char *p = array->data + i * (uint64_t)sizes[array->type];
    if (array->type == GR_GGUF_F32 || array->type == GR_GGUF_F64) {
        double d = float_at(array->type, p);
        return d >= -0x1p62 && d <= 0x1p62 ? (int64_t)d : 0;
    }
    return int_at(array->type, p);
}

double gr_gguf_array_float(const gr_gguf_array *array, uint64_t i) {
    return float_at(array->type, array->data + i * (uint64_t)sizes[array->type]);
}

gr_text gr_gguf_next_string(const gr_gguf_array *array, size_t *offset) {
    size_t n = (size_t)load(array->data + *offset, 8);
    gr_text text = {(const char *)array->data + *offset + 8, n};
    *offset += 8 + n;
    return text;
}

static graft_status find(const gr_gguf *g, const char *key, const gr_gguf_pair **out, graft_error *err) {
    const gr_gguf_pair *p = gr_gguf_find(g, key);
    if (!p) return gr_fail(err, GRAFT_ERR_NOT_FOUND, "%s: key %s is missing", gr_gguf_path(g), key);
    *out = p;
    return GRAFT_OK;
}

static graft_status wrong(const gr_gguf *g, const gr_gguf_pair *p, const char *expected, graft_error *err) {
    return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: expected %s, found %s", gr_gguf_path(g), p->key, expected,
                   gr_gguf_type_name(p->type));
}

graft_status gr_gguf_get_int(const gr_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                             graft_error *err) {
    const gr_gguf_pair *p;
    GR_TRY(find(g, key, &p, err));
    if (!is_int(p->type)) return wrong(g, p, "an integer", err);
    int64_t v = int_at(p->type, p->data);
    if (v < min || v > max)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: expected %lld to %lld, found %lld", gr_gguf_path(g), key,
                       (long long)min, (long long)max, (long long)v);
    *out = v;
    return GRAFT_OK;
}

graft_status gr_gguf_get_float(const gr_gguf *g, const char *key, double *out, graft_error *err) {
    const gr_gguf_pair *p;
    GR_TRY(find(g, key, &p, err));
    if (p->type != GR_GGUF_F32 && p->type != GR_GGUF_F64) return wrong(g, p, "a float", err);
    *out = float_at(p->type, p->data);
    return GRAFT_OK;
}

graft_status gr_gguf_get_bool(const gr_gguf *g, const char *key, bool *out, graft_error *err) {
    const gr_gguf_pair *p;
    GR_TRY(find(g, key, &p, err));
    if (p->type != GR_GGUF_BOOL) return wrong(g, p, "a bool", err);
    *out = p->data[0] != 0;
    return GRAFT_OK;
}

graft_status gr_gguf_get_text(const gr_gguf *g, const char *key, gr_text *out, graft_error *err) {
    const gr_gguf_pair *p;
    GR_TRY(find(g, key, &p, err));
    if (p->type != GR_GGUF_STRING) return wrong(g, p, "a string", err);
    *out = (gr_text){(const char *)p->data + 8, (size_t)load(p->data, 8)};
    return GRAFT_OK;
}

graft_status gr_gguf_get_array(const gr_gguf *g, const char *key, gr_gguf_type type, gr_gguf_array *out,
                               graft_error *err) {
    const gr_gguf_pair *p;
    GR_TRY(find(g, key, &p, err));
    if (p->type != GR_GGUF_ARRAY) return wrong(g, p, "an array", err);
    if (type != GR_GGUF_TYPE_COUNT && p->array.type != type)
        return gr_fail(err, GRAFT_ERR_FORMAT, "%s: key %s: expected an array of %s, found an array of %s",
                       gr_gguf_path(g), key, gr_gguf_type_name(type), gr_gguf_type_name(p->array.type));
    *out = p->array;
    return GRAFT_OK;
}
