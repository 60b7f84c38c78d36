/* Calibration: what the inputs of a model's products are like on given records, and the scales for activations in 8
 * bits that follow. */
#ifndef GRAFT_CALIBRATE_H
#define GRAFT_CALIBRATE_H

#include "graft/data.h"
#include "graft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialise for the defaults. */
typedef struct graft_calibration_options {
    /* The records: any format of graft/data.h. All tokens of an example count, whatever it is to learn. max_records:
     * as the next one. */
    graft_data_options data;
    size_t num_calibration_samples; /* records at most, the first ones; 0: 512 */
    int64_t max_seq_length;         /* tokens of each at most; 0: 2048, or as many as the model has positions */
    int measure; /* a second time over the records: what rounding to the scales that were found costs, for
                    graft_w8a8_report */
    void (*progress)(void *user, size_t done, size_t total); /* examples; NULL: none */
    void *user;
} graft_calibration_options;

/* Runs the model, without adapters, over the records. The scale of a module's input is the largest magnitude seen
 * over 127.5. The result is of this architecture, and constant: any model may be loaded with it at the same time. The
 * model has to write texts without an encoder, and to compute activations in floats. */
graft_status graft_calibrate(graft_model *m, const graft_tokenizer *tok, const graft_calibration_options *options,
                             graft_calibration **out, graft_error *err);
void graft_calibration_free(graft_calibration *c);
size_t graft_calibration_n_examples(const graft_calibration *c);
uint64_t graft_calibration_n_tokens(const graft_calibration *c);

/* What int8 costs each module, as a JSON object (freed with graft_free): of its weight rmse, max and relative as in
 * graft_quantize_report; of its input, where there is a calibration, input_max, input_outlier_ratio (max over the
 * root mean square), and, where it was measured, input_error and input_error_dynamic (root mean square of the error
 * over that of the values, with the one scale and with one a row) and input_clipped (elements beyond the scale's
 * range, of all). Nothing is written. */
graft_status graft_w8a8_report(graft_model *m, const graft_w8a8 *how, char **json, graft_error *err);

#ifdef __cplusplus
}
#endif
#endif
