/* One row of a block of attention scores, on vectors (use: attention.c). Included by attention_*.c once per type of the
 * probabilities with
 *   NAME(x)      the function's name
 *   P            float or uint16_t (BF16)
 *   ST(p, x, w)  stores the first w elements (w > VW counts as VW) */

/* Online softmax (Milakov & Gimelshein 2018). s: n <= 64 products q.k; bit j of `seen`: key j is visible; bias: 64 floats, or
 * NULL. Takes running maximum and lane sums to the new block, writes p = exp(scale s + bias - max), 0 where not visible or, without
 * any effect on the sums, not kept by dropout, and returns the factor for what was summed up before. */
static float NAME(softmax_row)(int64_t n, const float *s, uint64_t seen, uint64_t kept, float scale, const float *bias,
                               float *max, float *lanes, void *p_) {
    const vf k = v_set1(scale), none = v_set1(-INFINITY);
    P *p = p_;
    vf x[64 / VW], top = none;
    int64_t v = 0;
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW, v++) {
        vf score = v_mul(w >= VW ? v_load(s + c) : v_load_n(s + c, w), k);
        x[v] = v_where(seen >> c, bias ? v_add(score, v_load(bias + c)) : score, none);
        top = v_max(x[v], top);
    }
    const float old = *max, block = v_max_lane(top), now = block > old ? block : old;
    const vf shift = v_set1(now == -INFINITY ? 0.0f : now);
    const vf factor = v_exp(v_sub(v_set1(old), shift));
    vf sum = v_mul(v_load(lanes), factor);
    v = 0;
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW, v++) {
        vf e = v_where(seen >> c, v_exp(v_sub(x[v], shift)), v_zero());
        sum = v_add(sum, e);
        ST(p + c, v_where(kept >> c, e, v_zero()), w);
    }
    v_store(lanes, sum);
    *max = now;
    return now == -INFINITY ? 1.0f : v_first_lane(factor);
}

/* p = exp(scale s + bias - lse); ds = p (dp factor - delta) scale; 0 where not visible. Of keys that dropout does not keep p is
 * written as 0 and dp is 0. dbias (64 floats, or NULL) gets p (dp factor - delta) added. */
static void NAME(grad_row)(int64_t n, const float *s, const float *dp, uint64_t seen, uint64_t kept, float factor, float scale,
                           const float *bias, float lse, float delta, void *p_, void *ds_, float *dbias) {
    const vf k = v_set1(scale), l = v_set1(lse), d = v_set1(delta), f = v_set1(factor);
    P *p = p_, *ds = ds_;
    for (int64_t c = 0, w = n; c < n; c += VW, w -= VW) {
        int64_t m = w >= VW ? VW : w;
        vf score = v_mul(v_load_n(s + c, m), k);
        vf e = v_exp(v_sub(bias ? v_add(score, v_load(bias + c)) : score, l));
        vf g = v_mul(e, v_sub(v_where(kept >> c, v_mul(v_load_n(dp + c, m), f), v_zero()), d));
        ST(p + c, v_where((seen & kept) >> c, e, v_zero()), w);
        ST(ds + c, v_where(seen >> c, v_mul(g, k), v_zero()), w);
        if (dbias) v_store(dbias + c, v_add(v_load(dbias + c), v_where(seen >> c, g, v_zero())));
    }
}

static const gr_attention_rows NAME(attention_rows) = {NAME(softmax_row), NAME(grad_row)};
