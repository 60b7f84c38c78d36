/* Status codes and error details.
 *
 * Every graft function that can fail returns a graft_status (0 is success), writes its outputs last and only on
 * success, and describes a failure in the caller's graft_error when one is given (NULL is allowed everywhere). */
#ifndef GRAFT_STATUS_H
#define GRAFT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum graft_status {
#define X(name, value, text) GRAFT_##name = value,
#include "graft/status.def"
#undef X
} graft_status;

/* One sentence naming the file, the place in it, what was expected and what was found. Always NUL-terminated UTF-8. */
typedef struct graft_error {
    graft_status status;
    char text[1024];
} graft_error;

/* The fixed English text of a status, "unknown status" for a number that is none. Never NULL. */
const char *graft_status_text(graft_status status);

#ifdef __cplusplus
}
#endif
#endif
