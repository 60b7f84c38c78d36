/* Filling graft_error. */
#ifndef GR_BASE_ERROR_H
#define GR_BASE_ERROR_H

#include "graft/status.h"

/* Writes `status` and the formatted sentence into err (NULL allowed) and returns status, so that a failing function
 * ends with `return gr_fail(err, ...)`. Over-long text is cut at a UTF-8 boundary. */
graft_status gr_fail(graft_error *err, graft_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Same with the meaning of errno `code` appended (": No such file or directory"). */
graft_status gr_fail_errno(graft_error *err, graft_status status, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " before the sentence already in err (adds the outer place: file, record, tensor). Returns err's
 * status, or `status` where err is NULL. */
graft_status gr_error_prefix(graft_error *err, graft_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

graft_status gr_fail_memory(graft_error *err);

/* Tells the compiler what it cannot see across files: these never return GRAFT_OK, so that an output which a failing
 * call left unset is not taken for one that is used. */
static inline graft_status gr_is_failure(graft_status st) {
    if (st == GRAFT_OK) __builtin_unreachable();
    return st;
}
#define gr_fail(...) gr_is_failure(gr_fail(__VA_ARGS__))
#define gr_fail_errno(...) gr_is_failure(gr_fail_errno(__VA_ARGS__))
#define gr_fail_memory(err) gr_is_failure(gr_fail_memory(err))

/* Returns from the calling function when expr fails. Only where there is nothing to clean up. */
#define GR_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        graft_status gr_try_status_ = (expr);                                                                          \
        if (gr_try_status_ != GRAFT_OK) return gr_try_status_;                                                         \
    } while (0)

/* Jumps to `label` when expr fails, with the status in the variable `st`. */
#define GR_GO(label, expr)                                                                                             \
    do {                                                                                                               \
        if ((st = (expr)) != GRAFT_OK) goto label;                                                                     \
    } while (0)

#endif
