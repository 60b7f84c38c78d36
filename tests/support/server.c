#define _GNU_SOURCE
#include "support/server.h"

#include <arpa/inet.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

void test_send(int fd, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        if (w <= 0) return;
        p += w;
        n -= (size_t)w;
    }
}

void test_respond(int fd, const test_request *request, int status, const char *headers, const void *body, size_t n) {
    char head[4096];
    int k = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n", status,
                     headers, n);
    test_send(fd, head, (size_t)k);
    if (strcmp(request->method, "HEAD") != 0) test_send(fd, body, n);
}

static void read_header(const char *line, const char *name, char *out, size_t size) {
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) == 0) snprintf(out, size, "%s", line + n);
}

static bool read_request(int fd, test_request *r) {
    char text[8192];
    size_t n = 0;
    *r = (test_request){0};
    while (n + 1 < sizeof text) {
        ssize_t k = recv(fd, text + n, sizeof text - 1 - n, 0);
        if (k <= 0) return false;
        n += (size_t)k;
        text[n] = '\0';
        if (strstr(text, "\r\n\r\n")) break;
    }
    if (sscanf(text, "%7s %1023s", r->method, r->path) != 2) return false;
    for (char *line = text, *end; (end = strstr(line, "\r\n")); line = end + 2) {
        *end = '\0';
        read_header(line, "Authorization: ", r->authorization, sizeof r->authorization);
        read_header(line, "Range: ", r->range, sizeof r->range);
    }
    return true;
}

static void *serve(void *arg) {
    test_server *s = arg;
    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0) return NULL;
        test_request r;
        if (read_request(fd, &r)) s->handler(s, &r, fd, s->user);
        shutdown(fd, SHUT_WR);
        close(fd);
    }
}

void test_server_start(test_server *s, test_handler handler, void *user) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    s->handler = handler;
    s->user = user;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(s->fd >= 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->fd, 16), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&at, &size), 0);
    s->port = ntohs(at.sin_port);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", s->port);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

void test_server_stop(test_server *s) {
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
}
