/* What a graft_model holds. Rooms data and infer reach the model and its hooks through it without knowing adapters. */
#ifndef GR_MODEL_PUBLIC_H
#define GR_MODEL_PUBLIC_H

#include "graft/model.h"
#include "model/model.h"

struct graft_model {
    graft_context *ctx;
    gr_model *model;
    const gr_hooks *hooks; /* of `adapters`; never NULL */
    /* Owned by room adapter (a gr_adapter_set). */
    void *adapters;
};

#endif
