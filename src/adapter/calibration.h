/* What calibration found (graft/calibrate.h), and which modules become W8A8 with it. */
#ifndef GR_ADAPTER_CALIBRATION_H
#define GR_ADAPTER_CALIBRATION_H

#include "graft/calibrate.h"
#include "model/model.h"

/* The input of a product, over all rows that were seen. */
typedef struct gr_input_range {
    int64_t rows, columns;
    float most;
    double squares;
    bool measured;
    double error, error_dynamic; /* sums of squares */
    int64_t clipped;
} gr_input_range;

typedef struct gr_calibrated {
    const char *module; /* in the arena */
    int range;          /* modules that are parts of one product share it */
} gr_calibrated;

struct graft_calibration {
    const graft_allocator *a;
    gr_arena arena;
    gr_calibrated *modules;
    size_t n_modules;
    gr_input_range *ranges;
    size_t n_ranges, n_examples;
    uint64_t n_tokens;
};

/* NULL: there is no such module. */
const gr_input_range *gr_calibration_find(const graft_calibration *c, const char *module);

/* A plan for gr_model_open, over `how`; both are borrowed by it. */
gr_channel8_plan gr_w8a8_plan(const graft_w8a8 *how);
/* GRAFT_ERR_ARGUMENT: something that is to be left out is no module of the model. */
graft_status gr_w8a8_check(const gr_model *m, const graft_w8a8 *how, graft_error *err);

#endif
