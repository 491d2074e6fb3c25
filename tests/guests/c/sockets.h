/* The socket functions that WasmEdge has added to preview 1, in their newer form, and what goes with them. */

#ifndef SOCKETS_H
#define SOCKETS_H

#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

enum { INET4 = 1, INET6 = 2, UNIX = 3 };
enum { DATAGRAM = 1, STREAM = 2 };
enum { SOL_SOCKET = 0, SO_ERROR = 2 };
enum { NONBLOCK = 4 };
enum { EAGAIN = 6, EINPROGRESS = 26 };

struct address {
    const void *bytes;
    uint32_t len;
};

struct iovec {
    const void *bytes;
    uint32_t len;
};

struct addrinfo {
    uint16_t flags;
    uint8_t family;
    uint8_t type;
    uint32_t protocol;
    uint32_t addr_len;
    struct sockaddr *addr;
    char *canonname;
    uint32_t canonname_len;
    struct addrinfo *next;
};

struct sockaddr {
    uint32_t family;
    uint32_t len;
    uint8_t *data;
};

struct subscription {
    uint64_t userdata;
    uint8_t tag;
    union {
        struct {
            uint32_t id;
            uint64_t timeout;
            uint64_t precision;
            uint16_t flags;
        } clock;
        uint32_t fd;
    };
};

struct event {
    uint64_t userdata;
    uint16_t error;
    uint8_t type;
    uint64_t nbytes;
    uint16_t flags;
};

enum { CLOCK = 0, READ = 1, WRITE = 2 };

WASI(sock_open) int32_t sock_open(int32_t family, int32_t type, int32_t *fd);
WASI(sock_bind) int32_t sock_bind(int32_t fd, const struct address *addr, uint32_t port);
WASI(sock_connect) int32_t sock_connect(int32_t fd, const struct address *addr, uint32_t port);
WASI(sock_listen) int32_t sock_listen(int32_t fd, int32_t backlog);
WASI(sock_accept) int32_t sock_accept(int32_t fd, int32_t flags, int32_t *accepted);
WASI(sock_recv)
int32_t sock_recv(int32_t fd, const struct iovec *iovs, uint32_t count, uint32_t flags, uint32_t *len, uint16_t *out);
WASI(sock_send)
int32_t sock_send(int32_t fd, const struct iovec *iovs, uint32_t count, uint32_t flags, uint32_t *len);
WASI(sock_recv_from)
int32_t sock_recv_from(int32_t fd, const struct iovec *iovs, uint32_t count, const struct address *addr,
    uint32_t flags, uint32_t *port, uint32_t *len, uint16_t *out);
WASI(sock_send_to)
int32_t sock_send_to(int32_t fd, const struct iovec *iovs, uint32_t count, const struct address *addr, uint32_t port,
    uint32_t flags, uint32_t *len);
WASI(sock_shutdown) int32_t sock_shutdown(int32_t fd, int32_t how);
WASI(sock_getsockopt) int32_t sock_getsockopt(int32_t fd, int32_t level, int32_t name, int32_t *value, uint32_t len);
WASI(sock_setsockopt)
int32_t sock_setsockopt(int32_t fd, int32_t level, int32_t name, const int32_t *value, uint32_t len);
WASI(sock_getlocaladdr) int32_t sock_getlocaladdr(int32_t fd, const struct address *addr, uint32_t *port);
WASI(sock_getpeeraddr) int32_t sock_getpeeraddr(int32_t fd, const struct address *addr, uint32_t *port);
WASI(sock_getaddrinfo)
int32_t sock_getaddrinfo(const char *name, uint32_t name_len, const char *service, uint32_t service_len,
    const struct addrinfo *hints, struct addrinfo **first, uint32_t max, uint32_t *count);
WASI(poll_oneoff)
int32_t poll_oneoff(const struct subscription *subscriptions, struct event *events, uint32_t count, uint32_t *happened);
WASI(fd_read) int32_t fd_read(int32_t fd, const struct iovec *iovs, uint32_t count, uint32_t *len);
WASI(fd_write) int32_t fd_write(int32_t fd, const struct iovec *iovs, uint32_t count, uint32_t *len);
WASI(fd_close) int32_t fd_close(int32_t fd);
WASI(fd_renumber) int32_t fd_renumber(int32_t from, int32_t to);
WASI(fd_fdstat_set_flags) int32_t fd_fdstat_set_flags(int32_t fd, int32_t flags);

#endif
