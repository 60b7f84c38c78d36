/* The angle of position p in pair i is p * f_i, with f_i = theta^(-2i/D) in the plain case. The variants stretch f:
 *   linear    f / factor
 *   dynamic   theta grown by (factor * L / M - (factor - 1))^(D/(D-2)) for lengths L above the trained M
 *   llama3    long waves divided by factor, short ones kept, a linear blend between
 *   yarn      a ramp over the pairs between f / factor and f, and a factor on cosines and sines
 * Every step is taken in float in the reference's order, so that angles at large positions agree. */
#include "nn/rope.h"

#include <math.h>

static void plain(float theta, int dim, float *f) {
    for (int i = 0; i < dim / 2; i++) f[i] = 1.0f / powf(theta, (float)(2 * i) / (float)dim);
}

/* The reference has the length as an integer tensor, so that this arithmetic is single precision. */
static float dynamic_theta(const gr_model_config *c, int64_t length) {
    const gr_rope_config *r = &c->rope;
    if (length <= c->max_position_embeddings) return (float)r->theta;
    float stretched = (float)r->factor * (float)length / (float)c->max_position_embeddings - (float)(r->factor - 1);
    return (float)r->theta * powf(stretched, (float)((double)c->head_dim / (c->head_dim - 2)));
}

static void llama3(const gr_rope_config *r, int dim, float *f) {
    double old = (double)r->original_max_position_embeddings;
    float low = (float)(old / r->low_freq_factor), high = (float)(old / r->high_freq_factor);
    for (int i = 0; i < dim / 2; i++) {
        float wave = (float)(2 * M_PI) / f[i];
        float scaled = wave > low ? f[i] / (float)r->factor : f[i];
        if (!(wave < high) && !(wave > low)) {
            float smooth = ((float)old / wave - (float)r->low_freq_factor) /
                           (float)(r->high_freq_factor - r->low_freq_factor);
            scaled = (1 - smooth) * scaled / (float)r->factor + smooth * scaled;
        }
        f[i] = scaled;
    }
}

static double mscale(double scale, double m) { return scale <= 1 ? 1 : 0.1 * m * log(scale) + 1; }

static double yarn_attention_factor(const gr_rope_config *r) {
    if (r->attention_factor != 0) return r->attention_factor;
    if (r->mscale != 0 && r->mscale_all_dim != 0)
        return mscale(r->factor, r->mscale) / mscale(r->factor, r->mscale_all_dim);
    return mscale(r->factor, 1);
}

static double correction_dim(const gr_rope_config *r, double rotations, int dim) {
    return dim * log((double)r->original_max_position_embeddings / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

static void yarn(const gr_rope_config *r, int dim, float *f) {
    double low = correction_dim(r, r->beta_fast, dim), high = correction_dim(r, r->beta_slow, dim);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        float wave = powf((float)r->theta, (float)(2 * i) / (float)dim);
        float extrapolated = 1.0f / wave, interpolated = 1.0f / ((float)r->factor * wave);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1 - fminf(fmaxf(ramp, 0), 1);
        f[i] = interpolated * (1 - keep) + extrapolated * keep;
    }
}

void gr_rope_frequencies(const gr_model_config *c, int64_t length, const float *freq_factors, float *inv_freq,
                         double *attention_factor) {
    const gr_rope_config *r = &c->rope;
    int dim = c->head_dim;
    double factor = 1;
    plain(r->type == GR_ROPE_DYNAMIC ? dynamic_theta(c, length) : (float)r->theta, dim, inv_freq);
    if (r->type == GR_ROPE_LINEAR)
        for (int i = 0; i < dim / 2; i++) inv_freq[i] /= (float)r->factor;
    if (r->type == GR_ROPE_LLAMA3) llama3(r, dim, inv_freq);
    if (r->type == GR_ROPE_YARN) {
        yarn(r, dim, inv_freq);
        factor = yarn_attention_factor(r);
    }
    for (int i = 0; freq_factors && i < dim / 2; i++) inv_freq[i] /= freq_factors[i];
    *attention_factor = factor;
}

void gr_rope_fill(int head_dim, const float *inv_freq, double attention_factor, const int32_t *position, int64_t begin,
                  int64_t end, gr_dtype dt, void *cos_sin) {
    int half = head_dim / 2;
    for (int64_t r = begin; r < end; r++) {
        for (int i = 0; i < half; i++) {
            float angle = (float)position[r] * inv_freq[i];
            if (dt == GR_F64) {
                double *row = (double *)cos_sin + r * head_dim;
                row[i] = cos(angle) * attention_factor;
                row[half + i] = sin(angle) * attention_factor;
            } else {
                float *row = (float *)cos_sin + r * head_dim;
                row[i] = cosf(angle) * (float)attention_factor;
                row[half + i] = sinf(angle) * (float)attention_factor;
            }
        }
    }
}
