/* Learning-rate schedules: the factor on the learning rate at each step, equal to transformers 5.23's get_scheduler. */
#ifndef GR_TRAIN_SCHEDULE_H
#define GR_TRAIN_SCHEDULE_H

#include "base/base.h"

typedef enum gr_schedule_type {
#define X(name) GR_SCHEDULE_##name,
#include "train/schedule.def"
#undef X
    GR_SCHEDULE_COUNT
} gr_schedule_type;

typedef enum gr_schedule_shape { GR_SHAPE_LINEAR, GR_SHAPE_COSINE, GR_SHAPE_1_SQRT } gr_schedule_shape;

typedef struct gr_schedule {
    gr_schedule_type type;
    double learning_rate;
    double warmup, total; /* steps; whole numbers */
    /* Settings of single schedules, NaN where not given. */
    double num_cycles, power, lr_end, timescale, min_lr, min_lr_rate, warmup_lr_rate;
    double num_stable_steps, num_decay_steps, min_lr_ratio;
    gr_schedule_shape warmup_type, decay_type;
} gr_schedule;

/* `kwargs` is a JSON object or NULL. Errors name the schedule, the key, what was expected and found. */
graft_status gr_schedule_init(const char *type, const char *kwargs, double learning_rate, int64_t warmup, int64_t total,
                              gr_schedule *out, graft_error *err);
/* For step 0, 1, ... */
double gr_schedule_factor(const gr_schedule *s, int64_t step);

#endif
