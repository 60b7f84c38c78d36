/* JSON (RFC 8259) for files that may be hostile: a pull reader that allocates nothing, and a small tree in an arena.
 * Both take their memory, if any, from the library's allocator, which a general JSON library cannot promise.
 *
 * Accepted beyond the RFC: NaN, Infinity and -Infinity as numbers, which Python writes. Refused: more than
 * GR_JSON_DEPTH levels, ill-formed UTF-8, lone surrogates, raw control characters, numbers of over 400 characters.
 * Errors name the file and the byte offset. */
#ifndef GR_BASE_JSON_H
#define GR_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"

enum { GR_JSON_DEPTH = 128 };

typedef enum gr_json_kind {
    GR_JSON_NONE, /* end of the text, or something that no value starts with */
    GR_JSON_NULL,
    GR_JSON_FALSE,
    GR_JSON_TRUE,
    GR_JSON_NUMBER,
    GR_JSON_STRING,
    GR_JSON_ARRAY,
    GR_JSON_OBJECT
} gr_json_kind;
const char *gr_json_kind_name(gr_json_kind kind); /* "a string", "null" */

typedef struct gr_json_number {
    bool is_int; /* written without fraction or exponent, and fits */
    int64_t i;   /* valid when is_int */
    double d;    /* always valid */
} gr_json_number;

/* The characters between the quotes, checked but with escapes as written. */
typedef struct gr_json_text {
    const char *raw;
    size_t len;
    bool escaped; /* contains a backslash */
} gr_json_text;

typedef struct gr_json_reader {
    const char *name; /* for errors */
    const char *text;
    size_t len, at;
    int depth;
    bool first;                             /* just after an opening bracket */
    uint64_t is_object[GR_JSON_DEPTH / 64]; /* one bit a level */
} gr_json_reader;

void gr_json_init(gr_json_reader *r, const char *name, const char *text, size_t len);
gr_json_kind gr_json_peek(gr_json_reader *r); /* what comes next, spaces skipped */
/* Consumes one value. A value of another kind is GRAFT_ERR_FORMAT. */
graft_status gr_json_read_text(gr_json_reader *r, gr_json_text *out, graft_error *err);
graft_status gr_json_read_number(gr_json_reader *r, gr_json_number *out, graft_error *err);
graft_status gr_json_read_bool(gr_json_reader *r, bool *out, graft_error *err);
graft_status gr_json_skip(gr_json_reader *r, graft_error *err); /* any value with all that it holds */
/* Containers: open, then while gr_json_next gives true read one value (objects: first its key). */
graft_status gr_json_open(gr_json_reader *r, gr_json_kind kind, graft_error *err);
graft_status gr_json_next(gr_json_reader *r, bool *more, graft_error *err);
graft_status gr_json_read_key(gr_json_reader *r, gr_json_text *out, graft_error *err);
graft_status gr_json_end(gr_json_reader *r, graft_error *err); /* nothing but spaces may follow */

/* Writes the meaning of the text (escapes resolved) into out, which holds at least text->len bytes. Returns the length.
 */
size_t gr_json_unescape(const gr_json_text *text, char *out);
/* Compares the meaning with a C string. */
bool gr_json_text_is(const gr_json_text *text, const char *with);

/* The tree. */
typedef struct gr_json_value gr_json_value;
struct gr_json_value {
    gr_json_kind kind;
    gr_json_number number;
    const char *text; /* STRING: NUL-terminated; may hold NUL characters before its end */
    size_t len;       /* STRING: bytes; ARRAY and OBJECT: members */
    const char *key;  /* of this member in its object, else NULL */
    size_t key_len;
    const gr_json_value *child, *next; /* first member; next sibling */
};

/* What stands where an integer was expected: "a fraction", "an integer of more than 64 bits", "a string". */
const char *gr_json_no_integer(const gr_json_value *v);

/* Everything lies in the arena; its limit bounds the memory. */
graft_status gr_json_parse(gr_arena *arena, const char *name, const char *text, size_t len, const gr_json_value **out,
                           graft_error *err);
/* Member of an object (the last of that name, as Python takes it); NULL when absent or `v` is NULL or no object. */
const gr_json_value *gr_json_get(const gr_json_value *v, const char *key);

/* Writing. */
void gr_json_add_text(gr_buf *b, const char *text, size_t len); /* quoted and escaped; ill-formed bytes as U+FFFD */
/* Shortest form that reads back as the same double, written as Python's repr does ("1e-05", "10000.0"). */
void gr_json_add_double(gr_buf *b, double value);
/* A decimal number in text[0..len), whatever the process's locale is; false when it is none. */
bool gr_parse_double(const char *text, size_t len, double *out);

#endif
