/* The functions of the http_handler ABI that the guests here import. */

#ifndef HTTP_WASM_H
#define HTTP_WASM_H

#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("http_handler"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

enum { REQUEST = 0, RESPONSE = 1 };

IMPORT(get_uri) uint32_t get_uri(char *buf, uint32_t limit);
IMPORT(set_header_value)
void set_header_value(uint32_t kind, const char *name, uint32_t name_len, const char *value, uint32_t value_len);
IMPORT(set_status_code) void set_status_code(uint32_t status);
IMPORT(write_body) void write_body(uint32_t kind, const char *body, uint32_t body_len);

/* A literal as the two arguments the ABI wants: address and length. */
#define STR(literal) (literal), (sizeof(literal) - 1)

#endif
