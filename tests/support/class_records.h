/* Records of classifications, for tests. */
#ifndef TEST_CLASS_RECORDS_H
#define TEST_CLASS_RECORDS_H

/* A file of that name in the temporary folder; its path, in static memory a few calls deep. */
const char *test_write_records(const char *name, const char *text);
/* Whether "good" or "great" stands in it decides the label; n records, of `kind` 's' (names), 'n' (classes),
 * 'm' (lists), 'r' (numbers), 't' (no label). */
const char *test_class_records(const char *name, int n, char kind);

#endif
