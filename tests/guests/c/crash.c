/* A guest that traps, three functions deep, when it is asked for /crash. Built with debug information. */

#include "http_wasm.h"

static volatile uint32_t divisor;

__attribute__((noinline)) static uint32_t
divide(uint32_t value)
{
    return value / divisor;
}

static inline __attribute__((always_inline)) uint32_t
scale(uint32_t value)
{
    return divide(value) + 1;
}

EXPORT(handle_request)
uint64_t
handle_request(void)
{
    static char uri[256];

    get_uri(uri, sizeof(uri));
    if (uri[1] == 'c') {
        return scale(100);
    }

    return 1;
}

EXPORT(handle_response)
void
handle_response(uint32_t ctx, uint32_t is_error)
{
    (void) ctx;
    (void) is_error;
}
