/*
 * A guest that does with sockets what the path of a request says, and answers with what came of it. Addresses
 * are bytes in hexadecimal: 4, 16, or up to 128 that begin with the family.
 *
 *   /get/ADDRESS/PORT/PATH        asks a server over TCP for PATH; the reply as it came
 *   /keep/ADDRESS/PORT/PATH       the same over a connection that stays open from request to request
 *   /poll/ADDRESS/PORT/PATH       the same on a socket that does not block, with poll_oneoff
 *   /clock/ADDRESS/PORT/MS        connects, then waits for bytes or so long, whatever comes first
 *   /name/NAME/PORT/PATH          asks the first address that NAME resolves to
 *   /lookup/NAME                  how many addresses NAME has, or the error number
 *   /udp/ADDRESS/PORT/TEXT        sends TEXT; the datagram that comes back
 *   /connect/ADDRESS/PORT         the error number of an attempt to connect, and leaves the socket open
 *   /sendto/ADDRESS/PORT          that of a datagram
 *   /open/N                       opens N sockets and leaves them; how many, and the last error number
 *   /numbers                      tries all functions on descriptors that it has not opened
 *   /trap/ADDRESS/PORT            connects and traps
 *   /listen                       error numbers of what only servers do
 *   /plain                        nothing
 */

#include "http_wasm.h"
#include "sockets.h"

static char uri[1024];
static char reply[65536];
static uint32_t reply_len;

static void
say(const char *text, uint32_t len)
{
    for (uint32_t i = 0; i < len && reply_len < sizeof(reply); i++) {
        reply[reply_len++] = text[i];
    }
}

static void
say_number(uint32_t number)
{
    char digits[10];
    uint32_t at = sizeof(digits);

    do {
        digits[--at] = (char) ('0' + number % 10);
        number /= 10;
    } while (number);

    say(digits + at, sizeof(digits) - at);
}

/* The words of the path. */
static struct word {
    const char *text;
    uint32_t len;
} words[8];

static uint32_t
split(uint32_t len)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < len && count < 8; i++) {
        if (uri[i] == '/' && (count < 4 || i == 0)) {
            words[count].text = uri + i + 1;
            words[count++].len = 0;
        } else if (count) {
            words[count - 1].len++;
        }
    }

    return count;
}

static int
is(const struct word *word, const char *text, uint32_t len)
{
    if (word->len != len) {
        return 0;
    }

    for (uint32_t i = 0; i < len; i++) {
        if (word->text[i] != text[i]) {
            return 0;
        }
    }

    return 1;
}

static uint32_t
number(const struct word *word)
{
    uint32_t value = 0;

    for (uint32_t i = 0; i < word->len; i++) {
        value = value * 10 + (uint32_t) (word->text[i] - '0');
    }

    return value;
}

static uint8_t
digit(char c)
{
    return (uint8_t) (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

static uint8_t address_bytes[128];
static struct address address;

/* Reads an address; the family of the socket that goes there. */
static int32_t
read_address(const struct word *word)
{
    uint32_t len = word->len / 2;

    for (uint32_t i = 0; i < sizeof(address_bytes); i++) {
        address_bytes[i] = 0;
    }

    for (uint32_t i = 0; i < len && i < sizeof(address_bytes); i++) {
        address_bytes[i] = (uint8_t) (digit(word->text[2 * i]) << 4 | digit(word->text[2 * i + 1]));
    }

    address.bytes = address_bytes;
    address.len = len == 4 || len == 16 ? len : 128;

    switch (address.len) {
    case 4:
        return INET4;
    case 16:
        return INET6;
    default:
        return address_bytes[0];
    }
}

/* The last error and where it was. */
static void
fail(const char *step, uint32_t len, int32_t error)
{
    reply_len = 0;
    say(step, len);
    say(STR(" "));
    say_number((uint32_t) error);
}

#define TRY(call) \
    do { \
        int32_t error_ = (call); \
        if (error_) { \
            fail(STR(#call), error_); \
            return; \
        } \
    } while (0)

static int32_t
wait_for(int32_t fd, uint8_t tag, uint16_t *error)
{
    struct subscription subscription = { .userdata = 7, .tag = tag, .fd = (uint32_t) fd };
    struct event event;
    uint32_t happened = 0;
    int32_t failed = poll_oneoff(&subscription, &event, 1, &happened);

    *error = event.error;
    return failed ? failed : happened != 1 || event.userdata != 7 || event.type != tag;
}

static int32_t
send_all(int32_t fd, const char *text, uint32_t len)
{
    while (len) {
        struct iovec iov = { text, len };
        uint32_t sent = 0;
        int32_t error = sock_send(fd, &iov, 1, 0, &sent);

        if (error == EAGAIN) {
            uint16_t failed = 0;
            error = wait_for(fd, WRITE, &failed);
            error = error ? error : failed;
        }

        if (error) {
            return error;
        }

        text += sent;
        len -= sent;
    }

    return 0;
}

static int32_t
ask(int32_t fd, const struct word *path, int keep)
{
    static const char begin[] = "GET /", close[] = " HTTP/1.0\r\n\r\n";
    static const char stay[] = " HTTP/1.1\r\nHost: a\r\n\r\n";
    int32_t error = send_all(fd, STR(begin));

    error = error ? error : send_all(fd, path->text, path->len);
    return error ? error : keep ? send_all(fd, STR(stay)) : send_all(fd, STR(close));
}

/* Reads to the end, or as much as has come at once. */
static int32_t
take(int32_t fd, int all)
{
    do {
        struct iovec iovs[2] = {
            { reply + reply_len, (sizeof(reply) - reply_len) / 2 },
            { reply + reply_len + (sizeof(reply) - reply_len) / 2, (sizeof(reply) - reply_len) / 2 },
        };
        uint32_t len = 0;
        int32_t error = fd_read(fd, iovs, 2, &len);

        if (error == EAGAIN) {
            uint16_t failed = 0;
            error = wait_for(fd, READ, &failed);
            if (error || failed) {
                return error ? error : failed;
            }
            continue;
        }

        if (error) {
            return error;
        }

        if (len == 0) {
            return 0;
        }

        reply_len += len;
    } while (all && reply_len < sizeof(reply) - 1);

    return 0;
}

static void
get(int keep, int polls)
{
    static int32_t kept = -1;
    int32_t family = read_address(&words[1]), fd = kept;
    uint16_t failed = 0;

    if (!keep || fd < 0) {
        TRY(sock_open(family, STREAM, &fd));

        if (polls) {
            int32_t value = -1;

            TRY(fd_fdstat_set_flags(fd, NONBLOCK));
            int32_t error = sock_connect(fd, &address, number(&words[2]));
            if (error != 0 && error != EINPROGRESS) {
                fail(STR("connect"), error);
                return;
            }
            TRY(wait_for(fd, WRITE, &failed));
            TRY(failed);
            TRY(sock_getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, 4));
            TRY(value);
        } else {
            TRY(sock_connect(fd, &address, number(&words[2])));
        }
    }

    TRY(ask(fd, &words[3], keep));
    TRY(take(fd, !keep));

    if (keep) {
        say(kept < 0 ? "new" : "old", 3);
        kept = fd;
    } else {
        TRY(fd_close(fd));
    }
}

static void
clock_or_bytes(void)
{
    int32_t fd, family = read_address(&words[1]);
    struct event events[2];
    uint32_t happened = 0;

    TRY(sock_open(family, STREAM, &fd));
    TRY(sock_connect(fd, &address, number(&words[2])));

    struct subscription both[2] = {
        { .userdata = 1, .tag = CLOCK, .clock = { .id = 1, .timeout = number(&words[3]) * 1000000ull } },
        { .userdata = 2, .tag = READ, .fd = (uint32_t) fd },
    };

    TRY(poll_oneoff(both, events, 2, &happened));
    for (uint32_t i = 0; i < happened; i++) {
        if (events[i].userdata == 1) {
            say(STR("clock"));
        } else {
            say(STR("bytes"));
        }
    }
    TRY(fd_close(fd));
}

static uint8_t data[4][26];
static struct sockaddr addrs[4];
static struct addrinfo infos[4];

static int32_t
lookup(const struct word *name, const struct word *port, uint32_t *count)
{
    struct addrinfo hints = { .type = STREAM }, *first = infos;

    for (uint32_t i = 0; i < 4; i++) {
        addrs[i] = (struct sockaddr) { 0, 14, data[i] };
        infos[i] = (struct addrinfo) { .addr = &addrs[i], .next = i < 3 ? &infos[i + 1] : 0 };
    }

    return sock_getaddrinfo(name->text, name->len, port ? port->text : "", port ? port->len : 0, &hints, &first, 4, count);
}

static void
by_name(void)
{
    uint32_t count = 0;
    int32_t fd;

    TRY(lookup(&words[1], &words[2], &count));
    if (count == 0) {
        say(STR("none"));
        return;
    }
    address.bytes = data[0] + 2;
    address.len = addrs[0].family == INET4 ? 4 : 16;
    TRY(sock_open((int32_t) addrs[0].family, STREAM, &fd));
    TRY(sock_connect(fd, &address, (uint32_t) data[0][0] << 8 | data[0][1]));
    TRY(ask(fd, &words[3], 0));
    TRY(take(fd, 1));
    TRY(fd_close(fd));
}

static void
udp(void)
{
    int32_t fd, family = read_address(&words[1]);
    struct iovec out = { words[3].text, words[3].len }, in = { reply, sizeof(reply) };
    uint8_t from_bytes[128];
    struct address from = { from_bytes, sizeof(from_bytes) };
    uint32_t len = 0, port = 0;
    uint16_t flags = 0;

    TRY(sock_open(family, DATAGRAM, &fd));
    TRY(sock_send_to(fd, &out, 1, &address, number(&words[2]), 0, &len));
    TRY(sock_recv_from(fd, &in, 1, &from, 0, &port, &len, &flags));
    reply_len = len;
    say(STR(" from "));
    say_number(port);
    TRY(fd_close(fd));
}

static void
connect_or_send(int datagram)
{
    int32_t fd, family = read_address(&words[1]);
    struct iovec out = { "x", 1 };
    uint32_t len = 0;

    TRY(sock_open(family, datagram ? DATAGRAM : STREAM, &fd));
    say_number((uint32_t) (datagram ? sock_send_to(fd, &out, 1, &address, number(&words[2]), 0, &len)
                                    : sock_connect(fd, &address, number(&words[2]))));
}

static void
open_many(void)
{
    uint32_t opened = 0, wanted = number(&words[1]);
    int32_t error = 0;

    for (uint32_t i = 0; i < wanted; i++) {
        int32_t fd;
        error = sock_open(INET4, STREAM, &fd);
        opened += error == 0;
    }

    say_number(opened);
    say(STR(" "));
    say_number((uint32_t) error);
}

/* Whether any function does anything with a number that is nobody's. */
static uint32_t
answers(int32_t fd)
{
    char bytes[8];
    struct iovec iov = { bytes, sizeof(bytes) };
    uint8_t peer_bytes[128];
    struct address peer = { peer_bytes, sizeof(peer_bytes) };
    uint32_t len, port;
    int32_t value;
    uint16_t flags, failed = 0;
    uint32_t done = 0;

    done += sock_recv(fd, &iov, 1, 0, &len, &flags) == 0;
    done += sock_send(fd, &iov, 1, 0, &len) == 0;
    done += sock_getpeeraddr(fd, &peer, &port) == 0;
    done += sock_getlocaladdr(fd, &peer, &port) == 0;
    done += sock_getsockopt(fd, SOL_SOCKET, 1, &value, 4) == 0;
    done += sock_connect(fd, &address, 80) == 0;
    done += sock_shutdown(fd, 3) == 0;
    if (fd > 2) {
        done += fd_read(fd, &iov, 1, &len) == 0;
        done += fd_write(fd, &iov, 1, &len) == 0;
        done += fd_close(fd) == 0;
        done += wait_for(fd, READ, &failed) == 0 && failed == 0;
    }
    return done;
}

static void
numbers(void)
{
    static const int32_t far[] = {
        1 << 20, (1 << 20) + 1, (1 << 20) + 1000, -1, INT32_MIN, INT32_MAX, (1 << 20) - 1,
    };
    uint32_t done = 0;
    struct word local = { "7f000001", 8 };

    read_address(&local);
    for (int32_t fd = 0; fd < 300; fd++) {
        done += answers(fd);
    }
    for (uint32_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
        done += answers(far[i]);
    }

    int32_t fd;
    TRY(sock_open(INET4, STREAM, &fd));
    TRY(fd_close(fd));
    done += fd_close(fd) == 0;
    done += answers(fd);
    say_number(done);
}

static void
trap(void)
{
    int32_t fd, family = read_address(&words[1]);

    TRY(sock_open(family, STREAM, &fd));
    TRY(sock_connect(fd, &address, number(&words[2])));
    __builtin_trap();
}

static void
listen(void)
{
    int32_t fd, accepted;
    uint8_t any[4] = { 0, 0, 0, 0 };
    struct address own = { any, 4 };

    TRY(sock_open(INET4, STREAM, &fd));
    say_number((uint32_t) sock_bind(fd, &own, 0));
    say(STR(" "));
    say_number((uint32_t) sock_listen(fd, 1));
    say(STR(" "));
    say_number((uint32_t) sock_accept(fd, 0, &accepted));
    TRY(fd_close(fd));
}

EXPORT(handle_request)
uint64_t
handle_request(void)
{
    uint32_t len = get_uri(uri, sizeof(uri));

    reply_len = 0;
    for (uint32_t i = 0; i < 8; i++) {
        words[i] = (struct word) { uri, 0 };
    }

    if (len > sizeof(uri) || split(len) == 0) {
        return 1;
    }

    if (is(&words[0], STR("get"))) {
        get(0, 0);
    } else if (is(&words[0], STR("keep"))) {
        get(1, 0);
    } else if (is(&words[0], STR("poll"))) {
        get(0, 1);
    } else if (is(&words[0], STR("clock"))) {
        clock_or_bytes();
    } else if (is(&words[0], STR("name"))) {
        by_name();
    } else if (is(&words[0], STR("lookup"))) {
        uint32_t count = 0;
        int32_t error = lookup(&words[1], 0, &count);
        say_number(error ? (uint32_t) error : count);
    } else if (is(&words[0], STR("udp"))) {
        udp();
    } else if (is(&words[0], STR("connect"))) {
        connect_or_send(0);
    } else if (is(&words[0], STR("sendto"))) {
        connect_or_send(1);
    } else if (is(&words[0], STR("open"))) {
        open_many();
    } else if (is(&words[0], STR("numbers"))) {
        numbers();
    } else if (is(&words[0], STR("trap"))) {
        trap();
    } else if (is(&words[0], STR("listen"))) {
        listen();
    } else {
        say(STR("plain"));
    }

    write_body(RESPONSE, reply, reply_len);
    return 0;
}

EXPORT(handle_response)
void
handle_response(uint32_t req_ctx, uint32_t is_error)
{
    (void) req_ctx;
    (void) is_error;
}
