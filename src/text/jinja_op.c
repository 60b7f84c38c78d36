/* Arithmetic with Python's rules: / always gives a float, // and % round towards minus infinity, + and * also work on
 * strings, lists and tuples, % formats strings. Integers have 64 bits; leaving them is an error. */
#include <math.h>

#include "text/jinja_run.h"

static graft_status overflow(gr_jrun *run) {
    return gr_j_fail(run, GRAFT_ERR_LIMIT, "an integer leaves the 64 bits it can have");
}

static graft_status unsupported(gr_jrun *run, gr_jtok op, gr_jv a, gr_jv b) {
    return gr_j_raise(run, "unsupported operand type(s) for %s: '%s' and '%s'", gr_jp_token_text(op), gr_j_type(a),
                      gr_j_type(b));
}

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static graft_status int_power(gr_jrun *run, int64_t base, int64_t exponent, gr_jv *out) {
    if (exponent < 0) {
        if (!base) return gr_j_raise(run, "0.0 cannot be raised to a negative power");
        *out = gr_j_float(pow((double)base, (double)exponent));
        return GRAFT_OK;
    }
    int64_t result = 1;
    bool over = false;
    while (exponent) {
        if (exponent & 1) over |= __builtin_mul_overflow(result, base, &result);
        exponent >>= 1;
        /* The last square is not used, and may leave the 64 bits. */
        if (exponent) over |= __builtin_mul_overflow(base, base, &base);
    }
    if (over) return overflow(run);
    *out = gr_j_int(result);
    return GRAFT_OK;
}

static graft_status int_op(gr_jrun *run, gr_jtok op, int64_t a, int64_t b, gr_jv *out) {
    int64_t r = 0;
    bool over = false;
    if (!b && (op == GR_JT_DIV || op == GR_JT_FLOORDIV || op == GR_JT_MOD)) return gr_j_raise(run, "division by zero");
    switch (op) {
    case GR_JT_ADD: over = __builtin_add_overflow(a, b, &r); break;
    case GR_JT_SUB: over = __builtin_sub_overflow(a, b, &r); break;
    case GR_JT_MUL: over = __builtin_mul_overflow(a, b, &r); break;
    case GR_JT_DIV: *out = gr_j_float((double)((long double)a / (long double)b)); return GRAFT_OK;
    case GR_JT_FLOORDIV:
        over = a == INT64_MIN && b == -1;
        if (!over) r = floor_div(a, b);
        break;
    case GR_JT_MOD:
        r = b == -1 ? 0 : a % b;
        if (r && (r < 0) != (b < 0)) r += b;
        break;
    default: return int_power(run, a, b, out);
    }
    if (over) return overflow(run);
    *out = gr_j_int(r);
    return GRAFT_OK;
}

static double float_mod(double a, double b) {
    double r = fmod(a, b);
    if (r) return (b < 0) != (r < 0) ? r + b : r;
    return copysign(0.0, b);
}

static double float_floor_div(double a, double b) {
    double r = fmod(a, b), q = (a - r) / b;
    if (r && (b < 0) != (r < 0)) q -= 1;
    if (!q) return copysign(0.0, a / b);
    double whole = floor(q);
    return q - whole > 0.5 ? whole + 1 : whole;
}

static graft_status float_op(gr_jrun *run, gr_jtok op, double a, double b, gr_jv *out) {
    double r;
    if (b == 0 && (op == GR_JT_DIV || op == GR_JT_FLOORDIV || op == GR_JT_MOD))
        return gr_j_raise(run, "float division by zero");
    switch (op) {
    case GR_JT_ADD: r = a + b; break;
    case GR_JT_SUB: r = a - b; break;
    case GR_JT_MUL: r = a * b; break;
    case GR_JT_DIV: r = a / b; break;
    case GR_JT_FLOORDIV: r = float_floor_div(a, b); break;
    case GR_JT_MOD: r = float_mod(a, b); break;
    default:
        if (a == 0 && b < 0) return gr_j_raise(run, "0.0 cannot be raised to a negative power");
        if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
            return gr_j_raise(run, "a negative number cannot be raised to a fractional power");
        r = pow(a, b);
        if (isinf(r) && isfinite(a) && isfinite(b)) return gr_j_raise(run, "numerical result out of range");
    }
    *out = gr_j_float(r);
    return GRAFT_OK;
}

static double as_double(gr_jv v) { return v.kind == GR_JFLOAT ? v.f : v.kind == GR_JINT ? (double)v.i : v.b; }

static graft_status concat_seq(gr_jrun *run, gr_jv a, gr_jv b, gr_jv *out) {
    GR_TRY(gr_j_work(run, (a.seq->n + b.seq->n) * 16));
    GR_TRY(gr_j_seq(run, a.kind, a.seq->n + b.seq->n, out));
    gr_jseq *to = out->seq;
    if (a.seq->n) memcpy(to->items, a.seq->items, a.seq->n * sizeof *to->items);
    if (b.seq->n) memcpy(to->items + a.seq->n, b.seq->items, b.seq->n * sizeof *to->items);
    to->n = a.seq->n + b.seq->n;
    return GRAFT_OK;
}

static graft_status concat_str(gr_jrun *run, gr_jv a, gr_jv b, gr_jv *out) {
    bool safe = a.str->safe || b.str->safe;
    if (safe) {
        GR_TRY(gr_j_escape(run, a, &a));
        GR_TRY(gr_j_escape(run, b, &b));
    }
    size_t n = a.str->len + b.str->len;
    GR_TRY(gr_j_work(run, n));
    char *bytes = gr_j_new(run, n);
    if (!bytes) return gr_j_no_memory(run);
    if (a.str->len) memcpy(bytes, a.str->p, a.str->len);
    if (b.str->len) memcpy(bytes + a.str->len, b.str->p, b.str->len);
    GR_TRY(gr_j_str_view(run, bytes, n, out));
    out->str->safe = safe;
    return GRAFT_OK;
}

static graft_status repeat_seq(gr_jrun *run, gr_jv v, int64_t times, gr_jv *out) {
    size_t n = v.seq->n, total, bytes;
    if (times < 0 || !n) times = 0;
    if (__builtin_mul_overflow((size_t)times, n, &total) ||
        __builtin_mul_overflow(total, sizeof *v.seq->items, &bytes) || bytes > run->arena.limit)
        return gr_j_fail(run, GRAFT_ERR_LIMIT, "a repeated %s takes more than the limit of %zu bytes", gr_j_type(v),
                         run->arena.limit);
    GR_TRY(gr_j_work(run, bytes));
    GR_TRY(gr_j_seq(run, v.kind, total, out));
    for (int64_t i = 0; i < times; i++)
        memcpy(out->seq->items + (size_t)i * n, v.seq->items, n * sizeof *v.seq->items);
    out->seq->n = total;
    return GRAFT_OK;
}

static bool is_seq(gr_jv v) { return v.kind == GR_JLIST || v.kind == GR_JTUPLE; }

graft_status gr_j_binary(gr_jrun *run, gr_jtok op, gr_jv a, gr_jv b, gr_jv *out) {
    int64_t i, k;
    if (gr_j_is_number(a) && gr_j_is_number(b)) {
        if (gr_j_as_int(a, &i) && gr_j_as_int(b, &k)) return int_op(run, op, i, k, out);
        return float_op(run, op, as_double(a), as_double(b), out);
    }
    if (op == GR_JT_MOD && a.kind == GR_JSTR) return gr_j_percent(run, a, b, out);
    if (a.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, a);
    if (b.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, b);
    if (op == GR_JT_ADD && a.kind == b.kind) {
        if (a.kind == GR_JSTR) return concat_str(run, a, b, out);
        if (is_seq(a)) return concat_seq(run, a, b, out);
    }
    if (op == GR_JT_MUL) {
        if (gr_j_as_int(a, &i)) {
            gr_jv swap = a;
            a = b;
            b = swap;
        }
        if (a.kind == GR_JSTR && gr_j_as_int(b, &i)) return gr_j_repeat(run, a.str, i, out);
        if (is_seq(a) && gr_j_as_int(b, &i)) return repeat_seq(run, a, i, out);
    }
    return unsupported(run, op, a, b);
}

graft_status gr_j_negate(gr_jrun *run, gr_jv v, gr_jv *out) {
    int64_t i;
    if (v.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, v);
    if (v.kind == GR_JFLOAT) {
        *out = gr_j_float(-v.f);
    } else if (gr_j_as_int(v, &i)) {
        if (i == INT64_MIN) return overflow(run);
        *out = gr_j_int(-i);
    } else {
        return gr_j_raise(run, "bad operand type for unary -: '%s'", gr_j_type(v));
    }
    return GRAFT_OK;
}

graft_status gr_j_plus(gr_jrun *run, gr_jv v, gr_jv *out) {
    int64_t i;
    if (v.kind == GR_JUNDEFINED) return gr_j_raise_undefined(run, v);
    if (v.kind == GR_JFLOAT)
        *out = v;
    else if (gr_j_as_int(v, &i))
        *out = gr_j_int(i);
    else
        return gr_j_raise(run, "bad operand type for unary +: '%s'", gr_j_type(v));
    return GRAFT_OK;
}
