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

/* The next multiple of `to`, and of a cache line. n must be small enough to have one. */
static inline int64_t gr_round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline size_t gr_round64(size_t n) { return (n + 63) / 64 * 64; }

#endif
