// A guest that splits visitors among variants of a site. A visitor keeps a variant by a cookie; who has none gets one by
// chance. The next handler finds the variant in a request header, and nothing else that a client sends under that name.
//
// The configuration is words:
//
//     config="cookie=checkout header=X-Variant days=30 secure old:90 new:10"
//
//   NAME:WEIGHT     2 to 16 variants, of up to 32 letters, digits, - and _. Of 100 new visitors 90 get "old" here. Nobody
//                   new gets a variant of weight 0, and who has it keeps it. Weights are up to 1,000,000
//   cookie=NAME     the cookie, of the same characters; "ab" if not given
//   header=NAME     the request header, likewise; "X-Variant" if not given
//   days=NUMBER     for how long browsers keep the cookie, 1 to 400; 30 if not given
//   secure          browsers send the cookie over TLS only
//
// $wasm_log_variant is the variant, for access_log. A cache of nginx's has to know it: proxy_cache_key with
// $http_x_variant. Other caches learn by "Vary: Cookie" that the response depends on the cookie.

@external("http_handler", "get_config")
declare function get_config(buf: usize, limit: u32): u32;
@external("http_handler", "log")
declare function host_log(level: i32, message: usize, messageLen: u32): void;
@external("http_handler", "get_header_names")
declare function get_header_names(kind: u32, buf: usize, limit: u32): u64;
@external("http_handler", "get_header_values")
declare function get_header_values(kind: u32, name: usize, nameLen: u32, buf: usize, limit: u32): u64;
@external("http_handler", "set_header_value")
declare function set_header_value(kind: u32, name: usize, nameLen: u32, value: usize, valueLen: u32): void;
@external("http_handler", "add_header_value")
declare function add_header_value(kind: u32, name: usize, nameLen: u32, value: usize, valueLen: u32): void;
@external("http_handler", "remove_header")
declare function remove_header(kind: u32, name: usize, nameLen: u32): void;
@external("wasi_snapshot_preview1", "random_get")
declare function random_get(buf: usize, len: u32): u32;

const REQUEST: u32 = 0;
const RESPONSE: u32 = 1;
const INFO: i32 = 0;
const ERROR: i32 = 2;

let cookie = "ab";
let header = "X-Variant";
let attributes = "";
const names: string[] = [];
const weights: u32[] = [];
let total: u32 = 0;

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function log(level: i32, message: string): void {
  const m = bytes(message);
  host_log(level, changetype<usize>(m), m.byteLength);
}

// The values of a request header, however long they are.
function values(name: string): string[] {
  const n = bytes(name);
  const len = <u32>get_header_values(REQUEST, changetype<usize>(n), n.byteLength, 0, 0);
  const buffer = new ArrayBuffer(len);
  get_header_values(REQUEST, changetype<usize>(n), n.byteLength, changetype<usize>(buffer), len);
  return split(buffer);
}

function headerNames(): string[] {
  const len = <u32>get_header_names(REQUEST, 0, 0);
  const buffer = new ArrayBuffer(len);
  get_header_names(REQUEST, changetype<usize>(buffer), len);
  return split(buffer);
}

// Takes NUL-terminated values apart.
function split(buffer: ArrayBuffer): string[] {
  const parts = String.UTF8.decode(buffer).split("\0");
  parts.pop();
  return parts;
}

function setRequestHeader(name: string, value: string): void {
  const n = bytes(name);
  const v = bytes(value);
  set_header_value(REQUEST, changetype<usize>(n), n.byteLength, changetype<usize>(v), v.byteLength);
}

function addResponseHeader(name: string, value: string): void {
  const n = bytes(name);
  const v = bytes(value);
  add_header_value(RESPONSE, changetype<usize>(n), n.byteLength, changetype<usize>(v), v.byteLength);
}

function refuse(why: string): void {
  log(ERROR, "ab-split: " + why);
  unreachable();
}

// A word of letters, digits, - and _: neither a header nor a cookie needs quotes for it.
function isName(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    const isLetter = (c | 0x20) >= 0x61 && (c | 0x20) <= 0x7a;
    if (!isLetter && !(c >= 0x30 && c <= 0x39) && c != 0x2d && c != 0x5f) {
      return false;
    }
  }
  return text.length > 0 && text.length <= 32;
}

// A number up to the limit; -1 for anything else.
function number(text: string, limit: i32): i32 {
  let n = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c < 0x30 || c > 0x39 || n > limit) {
      return -1;
    }
    n = n * 10 + c - 0x30;
  }
  return text.length > 0 && n <= limit ? n : -1;
}

function addVariant(word: string): void {
  const at = word.indexOf(":");
  const name = word.substring(0, at);
  const weight = number(word.substring(at + 1), 1000000);
  if (!isName(name) || weight < 0 || names.includes(name) || names.length == 16) {
    refuse('invalid variant "' + word + '": expected NAME:WEIGHT, 2 to 16 of them, each name once, weights up to 1000000');
  }
  names.push(name);
  weights.push(weight);
  total += weight;
}

// The start function: asc makes _initialize of it with --exportStart.
function configure(): void {
  const buffer = new ArrayBuffer(get_config(0, 0));
  get_config(changetype<usize>(buffer), buffer.byteLength);
  let days = 30;
  let secure = "";
  const words = String.UTF8.decode(buffer).replaceAll("\n", " ").replaceAll("\t", " ").split(" ");
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    if (word.startsWith("cookie=")) {
      cookie = word.substring(7);
    } else if (word.startsWith("header=")) {
      header = word.substring(7);
    } else if (word.startsWith("days=")) {
      days = number(word.substring(5), 400);
    } else if (word == "secure") {
      secure = "; Secure";
    } else if (word.includes(":")) {
      addVariant(word);
    } else if (word.length > 0) {
      refuse('unknown word "' + word + '": expected cookie=NAME, header=NAME, days=NUMBER, secure or NAME:WEIGHT');
    }
  }
  if (names.length < 2 || total == 0) {
    refuse("expected two variants or more, NAME:WEIGHT, and a weight that is not 0");
  }
  if (!isName(cookie) || !isName(header)) {
    refuse("expected letters, digits, - and _ in cookie=NAME and header=NAME");
  }
  if (days < 1) {
    refuse("expected days=NUMBER, 1 to 400");
  }
  attributes = "; Path=/; Max-Age=" + (days * 86400).toString() + "; HttpOnly; SameSite=Lax" + secure;
}

// The variant of the visitor's cookie; "" if there is none of ours. What is not a variant counts as no cookie.
function known(): string {
  const lines = values("cookie");
  for (let i = 0; i < lines.length; i++) {
    const pairs = lines[i].split(";");
    for (let j = 0; j < pairs.length; j++) {
      const pair = pairs[j].trim();
      if (pair.startsWith(cookie + "=") && names.includes(pair.substring(cookie.length + 1))) {
        return pair.substring(cookie.length + 1);
      }
    }
  }
  return "";
}

// A variant by chance. Drawn when the request is there: all instances may begin with the same numbers.
function chosen(): string {
  const buffer = new ArrayBuffer(8);
  if (random_get(changetype<usize>(buffer), 8) != 0) {
    unreachable();
  }
  // 64 bits by at most 16 million: no variant is preferred by a difference that anybody could see.
  let at = <u32>(load<u64>(changetype<usize>(buffer)) % total);
  let i = 0;
  while (at >= weights[i]) {
    at -= weights[i++];
  }
  return names[i];
}

export function handle_request(): u64 {
  let variant = known();
  if (variant.length == 0) {
    variant = chosen();
    addResponseHeader("Set-Cookie", cookie + "=" + variant + attributes);
  }
  addResponseHeader("Vary", "Cookie");

  // Also x_variant for x-variant: many backends see the same name in both.
  const plain = header.toLowerCase().replaceAll("_", "-");
  const sent = headerNames();
  for (let i = 0; i < sent.length; i++) {
    if (sent[i].replaceAll("_", "-") == plain) {
      const n = bytes(sent[i]);
      remove_header(REQUEST, changetype<usize>(n), n.byteLength);
    }
  }
  setRequestHeader(header, variant);
  log(INFO, "variant=" + variant);
  return 1;
}

export function handle_response(reqCtx: u32, isError: u32): void {}

configure();
