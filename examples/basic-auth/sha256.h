/* SHA-256 (FIPS 180-4), HMAC (RFC 2104) and PBKDF2 (RFC 8018) with it. */

#ifndef SHA256_H
#define SHA256_H

#include <stdint.h>

enum { SHA256_BLOCK = 64, SHA256_SIZE = 32 };

typedef struct {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[SHA256_BLOCK];
} sha256_t;

/* The states after the two blocks that depend on the key alone. */
typedef struct {
    sha256_t inner, outer;
} hmac_t;

static inline uint32_t
sha256_rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void
sha256_block(uint32_t *state, const uint8_t *p)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    uint32_t w[64], s[8];

    for (int i = 0; i < 16; i++, p += 4) {
        w[i] = (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (sha256_rotate(a, 7) ^ sha256_rotate(a, 18) ^ a >> 3) + w[i - 7]
            + (sha256_rotate(b, 17) ^ sha256_rotate(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++) {
        s[i] = state[i];
    }
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (sha256_rotate(e, 6) ^ sha256_rotate(e, 11) ^ sha256_rotate(e, 25))
            + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 = (sha256_rotate(a, 2) ^ sha256_rotate(a, 13) ^ sha256_rotate(a, 22))
            + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = e, s[4] = s[3] + t1;
        s[3] = s[2], s[2] = s[1], s[1] = a, s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) {
        state[i] += s[i];
    }
}

static void
sha256_start(sha256_t *c)
{
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };

    for (int i = 0; i < 8; i++) {
        c->state[i] = start[i];
    }
    c->length = 0;
}

static void
sha256_update(sha256_t *c, const uint8_t *data, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        c->block[c->length++ % SHA256_BLOCK] = data[i];
        if (c->length % SHA256_BLOCK == 0) {
            sha256_block(c->state, c->block);
        }
    }
}

static void
sha256_final(sha256_t *c, uint8_t *digest)
{
    static const uint8_t end = 0x80, zero = 0;
    uint64_t bits = c->length * 8;
    uint8_t size[8];

    sha256_update(c, &end, 1);
    while (c->length % SHA256_BLOCK != SHA256_BLOCK - 8) {
        sha256_update(c, &zero, 1);
    }
    for (int i = 0; i < 8; i++) {
        size[i] = (uint8_t) (bits >> (56 - 8 * i));
    }
    sha256_update(c, size, 8);
    for (int i = 0; i < SHA256_SIZE; i++) {
        digest[i] = (uint8_t) (c->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

static void
hmac_start(hmac_t *h, const uint8_t *key, uint32_t len)
{
    uint8_t pad[SHA256_BLOCK] = { 0 };

    if (len > SHA256_BLOCK) {
        sha256_start(&h->inner);
        sha256_update(&h->inner, key, len);
        sha256_final(&h->inner, pad);
    } else {
        for (uint32_t i = 0; i < len; i++) {
            pad[i] = key[i];
        }
    }
    for (int i = 0; i < SHA256_BLOCK; i++) {
        pad[i] ^= 0x36;
    }
    sha256_start(&h->inner);
    sha256_update(&h->inner, pad, SHA256_BLOCK);
    for (int i = 0; i < SHA256_BLOCK; i++) {
        pad[i] ^= 0x36 ^ 0x5c;
    }
    sha256_start(&h->outer);
    sha256_update(&h->outer, pad, SHA256_BLOCK);
}

/* Of two texts one after the other; `h` stays as it is. */
static void
hmac(const hmac_t *h, const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len, uint8_t *digest)
{
    sha256_t inner = h->inner, outer = h->outer;

    sha256_update(&inner, a, a_len);
    sha256_update(&inner, b, b_len);
    sha256_final(&inner, digest);
    sha256_update(&outer, digest, SHA256_SIZE);
    sha256_final(&outer, digest);
}

/* The first block, which is as long as the hash. */
static void
pbkdf2(const uint8_t *password, uint32_t len, const uint8_t *salt, uint32_t salt_len, uint32_t iterations,
    uint8_t *key)
{
    static const uint8_t first[4] = { 0, 0, 0, 1 };
    uint8_t u[SHA256_SIZE];
    hmac_t h;

    hmac_start(&h, password, len);
    hmac(&h, salt, salt_len, first, sizeof(first), u);
    for (int i = 0; i < SHA256_SIZE; i++) {
        key[i] = u[i];
    }
    while (--iterations) {
        hmac(&h, u, SHA256_SIZE, u, 0, u);
        for (int i = 0; i < SHA256_SIZE; i++) {
            key[i] ^= u[i];
        }
    }
}

#endif
