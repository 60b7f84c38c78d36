/* Room 0, base: what every other room stands on. Status and errors, allocation, arenas, growable buffers, hash maps,
 * UTF-8, counter-based random numbers, threads, mapped and atomic files, the context, log and progress.
 *
 * Conventions of the whole library: functions return graft_status, outputs last and untouched on failure; `err` may
 * be NULL; names across files are gr_*, statics bare; free functions accept NULL. */
#ifndef GR_BASE_H
#define GR_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "graft/context.h"
#include "graft/status.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/ctx.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/map.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/threads.h"
#include "base/utf8.h"

#define GR_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define GR_MIN(a, b) ((a) < (b) ? (a) : (b))
#define GR_MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
