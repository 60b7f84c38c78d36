/* Bias by relative position. The buckets are looked up once a call: every kernel then reads the bias by distance. */
#include <math.h>

#include "kernel/cpu/attention.h"

int gr_position_bucket(const gr_position_bias *b, int64_t distance) {
    int n = b->buckets, first = 0;
    if (b->bidirectional) {
        n /= 2;
        if (distance > 0) first = n;
        distance = distance < 0 ? -distance : distance;
    } else {
        distance = distance < 0 ? -distance : 0;
    }
    const int exact = n / 2;
    if (distance < exact) return first + (int)distance;
    const float steps = (float)log((double)b->max_distance / exact);
    const float step = logf((float)distance / (float)exact) / steps * (float)(n - exact);
    return first + GR_MIN(exact + (int)step, n - 1);
}

size_t gr_bias_bytes(const gr_attention *a) {
    const size_t spread = gr_bias_span(a) * (size_t)a->n_heads * gr_type_size(gr_param_type(a->dt));
    return gr_bias_map_bytes(a) + gr_round64(spread);
}

void gr_bias_spread(const gr_attention *a) {
    const int64_t span = (int64_t)gr_bias_span(a), most = a->bias.max_distance;
    const gr_dtype dt = gr_param_type(a->dt);
    int32_t *bucket = a->scratch;
    void *spread = (char *)a->scratch + gr_bias_map_bytes(a);
    for (int64_t i = 0; i < span; i++)
        bucket[i] = gr_position_bucket(&a->bias, GR_MAX(GR_MIN(i - most - GR_BIAS_MARGIN, most), -most));
    for (int64_t h = 0; h < a->n_heads; h++)
        for (int64_t i = 0; i < span; i++)
            memcpy(gr_at(spread, dt, h * span + i), gr_at_const(a->bias.table, dt, bucket[i] * (int64_t)a->n_heads + h),
                   gr_type_size(dt));
}

/* The distances of a bucket stand side by side, the margins being in the last buckets. */
void gr_bias_gather(const gr_attention *a, int64_t s, int head, const void *by_distance) {
    const int64_t span = (int64_t)gr_bias_span(a), heads = a->n_heads;
    const int32_t *bucket = a->scratch;
    const gr_dtype dt = gr_param_type(a->dt);
    void *to = gr_at(a->bias.dtable, dt, s * a->bias.buckets * heads + head);
    for (int64_t b = 0; b < a->bias.buckets; b++) memset(gr_at(to, dt, b * heads), 0, gr_type_size(dt));
    for (int64_t i = 0, next; i < span; i = next) {
        double sum = 0;
        for (next = i; next < span && bucket[next] == bucket[i]; next++)
            sum += dt == GR_F64 ? ((const double *)by_distance)[next] : (double)((const float *)by_distance)[next];
        if (dt == GR_F64)
            ((double *)to)[bucket[i] * heads] = sum;
        else
            ((float *)to)[bucket[i] * heads] = (float)sum;
    }
}
