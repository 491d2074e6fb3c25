// A guest that lets a request pass when its header x-api-key is the guest's configuration, and answers 401 otherwise.

@external("http_handler", "get_config")
declare function get_config(buf: usize, limit: u32): u32;
@external("http_handler", "get_header_values")
declare function get_header_values(kind: u32, name: usize, nameLen: u32, buf: usize, limit: u32): u64;
@external("http_handler", "set_header_value")
declare function set_header_value(kind: u32, name: usize, nameLen: u32, value: usize, valueLen: u32): void;
@external("http_handler", "set_status_code")
declare function set_status_code(status: u32): void;
@external("http_handler", "write_body")
declare function write_body(kind: u32, body: usize, bodyLen: u32): void;

const REQUEST: u32 = 0;
const RESPONSE: u32 = 1;
const LIMIT: u32 = 1024;

const buffer = memory.data(LIMIT);

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function text(len: u32): string {
  return len > LIMIT ? "" : String.UTF8.decodeUnsafe(buffer, len);
}

// The only value of a request header; none, or several, are no value.
function header(name: string): string {
  const n = bytes(name);
  const countLen = get_header_values(REQUEST, changetype<usize>(n), n.byteLength, buffer, LIMIT);
  const len = <u32>countLen;
  return countLen >> 32 == 1 && len <= LIMIT ? text(len - 1) : "";
}

function setHeader(name: string, value: string): void {
  const n = bytes(name);
  const v = bytes(value);
  set_header_value(RESPONSE, changetype<usize>(n), n.byteLength, changetype<usize>(v), v.byteLength);
}

export function handle_request(): u64 {
  const key = text(get_config(buffer, LIMIT));

  setHeader("x-guest", "as-key");
  if (key.length > 0 && header("x-api-key") == key) {
    return 1;
  }

  setHeader("content-type", "text/plain");
  set_status_code(401);
  const body = bytes("the header x-api-key is missing or wrong\n");
  write_body(RESPONSE, changetype<usize>(body), body.byteLength);
  return 0;
}

export function handle_response(reqCtx: u32, isError: u32): void {}
