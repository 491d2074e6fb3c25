/* The functions of the http_handler ABI that the guests here import. */

#ifndef HTTP_WASM_H
#define HTTP_WASM_H

#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("http_handler"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

enum { REQUEST = 0, RESPONSE = 1 };
enum { LOG_INFO = 0, LOG_WARN = 1, LOG_ERROR = 2 };

IMPORT(get_uri) uint32_t get_uri(char *buf, uint32_t limit);
IMPORT(get_config) uint32_t get_config(char *buf, uint32_t limit);
IMPORT(log) void host_log(int32_t level, const char *message, uint32_t message_len);
IMPORT(get_header_values)
uint64_t get_header_values(uint32_t kind, const char *name, uint32_t name_len, char *buf, uint32_t limit);
IMPORT(add_header_value)
void add_header_value(uint32_t kind, const char *name, uint32_t name_len, const char *value, uint32_t value_len);
IMPORT(remove_header) void remove_header(uint32_t kind, const char *name, uint32_t name_len);
IMPORT(set_header_value)
void set_header_value(uint32_t kind, const char *name, uint32_t name_len, const char *value, uint32_t value_len);
IMPORT(set_status_code) void set_status_code(uint32_t status);
IMPORT(write_body) void write_body(uint32_t kind, const char *body, uint32_t body_len);

/* A literal as the two arguments the ABI wants: address and length. */
#define STR(literal) (literal), (sizeof(literal) - 1)

#endif
