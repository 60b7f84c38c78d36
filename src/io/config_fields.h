/* Reading fields of a JSON object with a sticky status: the first failure is kept, later reads return their defaults.
 * For the files of this room that read configurations. */
#ifndef GR_IO_CONFIG_FIELDS_H
#define GR_IO_CONFIG_FIELDS_H

#include "base/base.h"
#include "base/json.h"

typedef struct gr_fields {
    const char *file, *where; /* `where`: "" or "rope_scaling." in errors */
    const gr_json_value *object;
    graft_error *err;
    graft_status st;
} gr_fields;

/* The member, or NULL when absent or null. */
const gr_json_value *gr_field(const gr_fields *f, const char *key);
/* Whether the key stands there with null. */
bool gr_field_is_null(const gr_fields *f, const char *key);
/* Integers may be written as 8 or 8.0. */
int64_t gr_field_int(gr_fields *f, const char *key, int64_t absent, int64_t min, int64_t max);
double gr_field_double(gr_fields *f, const char *key, double absent, double min, double max);
bool gr_field_bool(gr_fields *f, const char *key, bool absent);
/* NULL when absent; strings with a NUL inside are refused. */
const char *gr_field_text(gr_fields *f, const char *key);
/* A token id, a list of at most `max`, or null: returns how many. */
int gr_field_ids(gr_fields *f, const char *key, int64_t *out, int max);
/* Records a failure. */
void gr_field_fail(gr_fields *f, graft_status st, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
