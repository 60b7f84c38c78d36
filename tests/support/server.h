/* A small HTTP/1.1 server on the loopback interface, one connection at a time, in a thread of the test. */
#ifndef TEST_SERVER_H
#define TEST_SERVER_H

#include <pthread.h>

#include "support/support.h"

typedef struct test_request {
    char method[8], path[1024], authorization[256], range[64];
} test_request;

typedef struct test_server test_server;
/* Writes the whole response with test_respond or test_send. Called on the server's thread. */
typedef void (*test_handler)(test_server *s, const test_request *request, int fd, void *user);

struct test_server {
    int fd, port;
    pthread_t thread;
    test_handler handler;
    void *user;
    char url[64]; /* "http://127.0.0.1:PORT" */
};

void test_server_start(test_server *s, test_handler handler, void *user);
void test_server_stop(test_server *s);
void test_send(int fd, const void *bytes, size_t n);
/* Status line, `headers` (each ending with \r\n), Content-Length, and `n` bytes unless the method is HEAD. */
void test_respond(int fd, const test_request *request, int status, const char *headers, const void *body, size_t n);

#endif
