// A small library for actors in C: the guest ABI, MessagePack, and the contracts of HTTP server, key-value and logging.
//
// An actor includes this file once and ends with its table of operations:
//
//     static bool hello(reader argument, writer *result) { put_text(result, "hello"); return true; }
//     ACTOR({"Hello.World", hello})
//
// A handler reads its argument, writes its result and returns true; or it calls fail(result, "why") and returns that.
// What it reads stays valid until it returns. Built for wasm32-wasi, with its libc; instances serve one call at a time.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define GUEST_IMPORT(name) __attribute__((import_module("wasmbus"), import_name(#name)))
GUEST_IMPORT(__guest_request) void guest_request(char *operation, char *payload);
GUEST_IMPORT(__guest_response) void guest_response(const char *at, size_t length);
GUEST_IMPORT(__guest_error) void guest_error(const char *at, size_t length);
GUEST_IMPORT(__host_call) int guest_host_call(const char *, size_t, const char *, size_t, const char *, size_t,
                                              const char *, size_t);
GUEST_IMPORT(__host_response_len) size_t guest_host_response_len(void);
GUEST_IMPORT(__host_response) void guest_host_response(char *to);
GUEST_IMPORT(__host_error_len) size_t guest_host_error_len(void);
GUEST_IMPORT(__host_error) void guest_host_error(char *to);

// --- memory: blocks that live until the call ends

typedef struct guest_block {
    struct guest_block *next;
} guest_block;
static guest_block *guest_blocks;

static inline void *allocate(size_t length) {
    guest_block *block = malloc(sizeof(guest_block) + length + 1);
    if (!block) abort();
    block->next = guest_blocks;
    guest_blocks = block;
    return block + 1;
}

static inline void guest_free_blocks(void) {
    while (guest_blocks) {
        guest_block *next = guest_blocks->next;
        free(guest_blocks);
        guest_blocks = next;
    }
}

// --- texts, which need not end in a zero byte

typedef struct {
    const char *at;
    size_t length;
} text;

static inline text text_of(const char *zero_ended) { return (text){zero_ended, strlen(zero_ended)}; }
static inline bool is(text one, const char *other) {
    return one.length == strlen(other) && memcmp(one.at, other, one.length) == 0;
}

// Text as printf makes it.
static inline text format(const char *how, ...) {
    va_list arguments, again;
    va_start(arguments, how);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, how, arguments);
    char *made = allocate(length > 0 ? length : 0);
    vsnprintf(made, (length > 0 ? length : 0) + 1, how, again);
    va_end(arguments);
    va_end(again);
    return (text){made, length > 0 ? length : 0};
}

// --- writing MessagePack: always the shortest form

typedef struct {
    char *at;
    size_t length, room;
} writer;

static inline void put_raw(writer *to, const void *from, size_t length) {
    if (to->length + length > to->room) {
        size_t room = (to->length + length) * 2 + 64;
        char *more = allocate(room);
        if (to->length) memcpy(more, to->at, to->length);
        to->at = more;
        to->room = room;
    }
    if (length) memcpy(to->at + to->length, from, length);
    to->length += length;
}

static inline void guest_put(writer *to, uint8_t mark, uint64_t value, int bytes) {
    uint8_t all[9] = {mark};
    for (int byte = 0; byte < bytes; byte++) all[1 + byte] = value >> 8 * (bytes - 1 - byte);
    put_raw(to, all, 1 + bytes);
}

// Puts one of up to three marks, for lengths of 1, 2 and 4 bytes, or a mark that holds a small length itself.
static inline void guest_put_length(writer *to, size_t length, size_t small, uint8_t fix, uint8_t one, uint8_t two) {
    if (length < small) guest_put(to, fix | length, 0, 0);
    else if (one && length < 0x100) guest_put(to, one, length, 1);
    else if (length < 0x10000) guest_put(to, two, length, 2);
    else guest_put(to, two + 1, length, 4);
}

static inline void put_nil(writer *to) { guest_put(to, 0xc0, 0, 0); }
static inline void put_bool(writer *to, bool value) { guest_put(to, value ? 0xc3 : 0xc2, 0, 0); }
static inline void put_array(writer *to, size_t items) { guest_put_length(to, items, 16, 0x90, 0, 0xdc); }
static inline void put_map(writer *to, size_t members) { guest_put_length(to, members, 16, 0x80, 0, 0xde); }
static inline void put_unsigned(writer *to, uint64_t value) {
    if (value < 0x80) guest_put(to, value, 0, 0);
    else if (value < 0x100) guest_put(to, 0xcc, value, 1);
    else if (value < 0x10000) guest_put(to, 0xcd, value, 2);
    else if (value < 0x100000000) guest_put(to, 0xce, value, 4);
    else guest_put(to, 0xcf, value, 8);
}
static inline void put_integer(writer *to, int64_t value) {
    if (value >= 0) put_unsigned(to, value);
    else if (value >= -32) guest_put(to, (uint8_t)value, 0, 0);
    else if (value >= INT8_MIN) guest_put(to, 0xd0, value, 1);
    else if (value >= INT16_MIN) guest_put(to, 0xd1, value, 2);
    else if (value >= INT32_MIN) guest_put(to, 0xd2, value, 4);
    else guest_put(to, 0xd3, value, 8);
}
static inline void put_float(writer *to, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    guest_put(to, 0xcb, bits, 8);
}
static inline void put(writer *to, text value) {
    guest_put_length(to, value.length, 32, 0xa0, 0xd9, 0xda);
    put_raw(to, value.at, value.length);
}
static inline void put_text(writer *to, const char *value) { put(to, text_of(value)); }
static inline void put_bytes(writer *to, const void *at, size_t length) {
    guest_put_length(to, length, 0, 0, 0xc4, 0xc5);
    put_raw(to, at, length);
}

// --- reading MessagePack: any width is accepted. What does not fit sets `failed`, and zero values follow.

typedef struct {
    const uint8_t *at, *end;
    bool failed;
} reader;

typedef enum { NIL, BOOLEAN, INTEGER, FLOAT, TEXT, BYTES, ARRAY, MAP, OTHER } kind;

typedef struct {
    kind kind;
    uint64_t number;  // of an integer (two's complement), a boolean, the bits of a float, items, members
    text bytes;       // of a text, bytes or an extension
    bool negative;
} value;

static inline reader read_from(text bytes) {
    return (reader){(const uint8_t *)bytes.at, (const uint8_t *)bytes.at + bytes.length, false};
}

static inline uint64_t guest_get(reader *from, int bytes) {
    if (from->end - from->at < bytes) {
        from->failed = true;
        from->at = from->end;
        return 0;
    }
    uint64_t number = 0;
    while (bytes--) number = number << 8 | *from->at++;
    return number;
}

static inline value guest_take(reader *from, kind kind, size_t length) {
    if ((size_t)(from->end - from->at) < length) {
        from->failed = true;
        from->at = from->end;
        length = 0;
    }
    value taken = {.kind = kind, .bytes = {(const char *)from->at, length}};
    from->at += length;
    return taken;
}

static inline value guest_signed(reader *from, int bytes) {
    uint64_t raw = guest_get(from, bytes);
    int64_t number = bytes == 8 ? (int64_t)raw : (int64_t)(raw << (64 - 8 * bytes)) >> (64 - 8 * bytes);
    return (value){.kind = INTEGER, .number = number, .negative = number < 0};
}

// The next value; of an array or a map only its head, its items follow.
static inline value get(reader *from) {
    uint8_t mark = guest_get(from, 1);
    if (from->failed) return (value){.kind = NIL};
    if (mark < 0x80) return (value){.kind = INTEGER, .number = mark};
    if (mark < 0x90) return (value){.kind = MAP, .number = mark & 15};
    if (mark < 0xa0) return (value){.kind = ARRAY, .number = mark & 15};
    if (mark < 0xc0) return guest_take(from, TEXT, mark & 31);
    if (mark >= 0xe0) return (value){.kind = INTEGER, .number = (uint64_t)(int64_t)(int8_t)mark, .negative = true};
    switch (mark) {
    case 0xc0: return (value){.kind = NIL};
    case 0xc2: case 0xc3: return (value){.kind = BOOLEAN, .number = mark & 1};
    case 0xc4: case 0xc5: case 0xc6: return guest_take(from, BYTES, guest_get(from, 1 << (mark - 0xc4)));
    case 0xc7: case 0xc8: case 0xc9: return guest_take(from, OTHER, guest_get(from, 1 << (mark - 0xc7)) + 1);
    case 0xca: {
        uint32_t bits = guest_get(from, 4);
        float number;
        memcpy(&number, &bits, sizeof bits);
        double wide = number;
        value taken = {.kind = FLOAT};
        memcpy(&taken.number, &wide, sizeof wide);
        return taken;
    }
    case 0xcb: return (value){.kind = FLOAT, .number = guest_get(from, 8)};
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        return (value){.kind = INTEGER, .number = guest_get(from, 1 << (mark - 0xcc))};
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return guest_signed(from, 1 << (mark - 0xd0));
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return guest_take(from, OTHER, (1 << (mark - 0xd4)) + 1);
    case 0xd9: case 0xda: case 0xdb: return guest_take(from, TEXT, guest_get(from, 1 << (mark - 0xd9)));
    case 0xdc: case 0xdd: return (value){.kind = ARRAY, .number = guest_get(from, 2 << (mark - 0xdc))};
    case 0xde: case 0xdf: return (value){.kind = MAP, .number = guest_get(from, 2 << (mark - 0xde))};
    }
    from->failed = true;
    return (value){.kind = NIL};
}

// The next value as what is expected of it.
static inline text get_text(reader *from) {
    value found = get(from);
    if (found.kind != TEXT && found.kind != BYTES) from->failed = true;
    return found.bytes;
}
static inline int64_t get_integer(reader *from) {
    value found = get(from);
    if (found.kind != INTEGER || (!found.negative && found.number > INT64_MAX)) from->failed = true;
    return from->failed ? 0 : (int64_t)found.number;
}
static inline bool get_bool(reader *from) {
    value found = get(from);
    if (found.kind != BOOLEAN) from->failed = true;
    return !from->failed && found.number;
}
static inline size_t guest_get_head(reader *from, kind wanted) {
    value found = get(from);
    // each item takes a byte at least: a wrong number must not keep anybody counting
    if (found.kind != wanted || found.number > (uint64_t)(from->end - from->at)) from->failed = true;
    return from->failed ? 0 : found.number;
}
static inline size_t get_array(reader *from) { return guest_get_head(from, ARRAY); }
static inline size_t get_map(reader *from) { return guest_get_head(from, MAP); }

// Goes past the next value with all that is in it.
static inline void skip(reader *from) {
    for (uint64_t left = 1; left && !from->failed; left--) {
        value found = get(from);
        if (found.kind == ARRAY || found.kind == MAP) {
            if (found.number > (uint64_t)(from->end - from->at)) from->failed = true;
            left += found.kind == MAP ? 2 * found.number : found.number;
        }
    }
}

// --- failing, and asking the host

// fail(result, "no user is called %s", name): the caller is told this text.
#define fail(result, ...) guest_fail(result, format(__VA_ARGS__))
static inline bool guest_fail(writer *result, text reason) {
    result->length = 0;
    put_raw(result, reason.at, reason.length);
    return false;
}

// Calls a provider: link name, contract, operation, argument. True: `reply` holds the encoded result; false: it holds
// the error text. An actor is called by its public key or call alias, in place of the contract, with the link name "".
static inline bool call(const char *link, const char *contract, const char *operation, writer argument, text *reply) {
    bool done = guest_host_call(link, strlen(link), contract, strlen(contract), operation, strlen(operation),
                                argument.at, argument.length) == 1;
    size_t length = done ? guest_host_response_len() : guest_host_error_len();
    char *at = allocate(length);
    if (done) guest_host_response(at);
    else guest_host_error(at);
    *reply = (text){at, length};
    return done;
}

// --- contract wasmcloud:httpserver

typedef struct {
    text method, path, query, body;
    reader headers;  // a map of names to arrays of texts
} http_request;

static inline bool http_read(reader argument, http_request *request) {
    *request = (http_request){.headers = read_from((text){"\x80", 1})};
    for (size_t left = get_map(&argument); left; left--) {
        text name = get_text(&argument);
        if (is(name, "method")) request->method = get_text(&argument);
        else if (is(name, "path")) request->path = get_text(&argument);
        else if (is(name, "queryString")) request->query = get_text(&argument);
        else if (is(name, "body")) request->body = get_text(&argument);
        else {
            reader start = argument;
            skip(&argument);
            if (is(name, "header")) request->headers = (reader){start.at, argument.at, argument.failed};
        }
    }
    return !argument.failed;
}

// The first value of a header (names are compared in lower case, as HTTP servers send them); empty if it is not there.
static inline text http_header(const http_request *request, const char *name) {
    reader headers = request->headers;
    text found = {"", 0};
    for (size_t left = get_map(&headers); left && !found.length; left--) {
        text here = get_text(&headers);
        bool same = here.length == strlen(name) && strncasecmp(here.at, name, here.length) == 0;
        for (size_t values = get_array(&headers); values; values--) {
            text value = get_text(&headers);
            if (same && !found.length) found = value;
        }
    }
    return found;
}

static inline int guest_hex(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

// A member of the query string, decoded; empty if it is not there.
static inline text http_query(const http_request *request, const char *name) {
    const char *at = request->query.at, *end = at + request->query.length;
    size_t wanted = strlen(name);
    while (at < end) {
        const char *next = memchr(at, '&', end - at);
        if (!next) next = end;
        if ((size_t)(next - at) > wanted && at[wanted] == '=' && memcmp(at, name, wanted) == 0) {
            char *decoded = allocate(next - at), *to = decoded;
            for (at += wanted + 1; at < next; at++) {
                bool escape = *at == '%' && next - at > 2 && guest_hex(at[1]) >= 0 && guest_hex(at[2]) >= 0;
                *to++ = escape ? guest_hex(at[1]) << 4 | guest_hex(at[2]) : *at == '+' ? ' ' : *at;
                if (escape) at += 2;
            }
            return (text){decoded, to - decoded};
        }
        at = next + 1;
    }
    return (text){"", 0};
}

static inline bool http_respond(writer *result, int status, const char *content_type, text body) {
    put_map(result, 3);
    put_text(result, "statusCode");
    put_unsigned(result, status);
    put_text(result, "header");
    put_map(result, 1);
    put_text(result, "Content-Type");
    put_array(result, 1);
    put_text(result, content_type);
    put_text(result, "body");
    put_bytes(result, body.at, body.length);
    return true;
}

// --- contracts wasmcloud:keyvalue and wasmcloud:builtin:logging. False: `error` holds the reason.

static inline bool keyvalue_increment(text key, int32_t by, int32_t *now, text *error) {
    writer argument = {0};
    put_map(&argument, 2);
    put_text(&argument, "key");
    put(&argument, key);
    put_text(&argument, "value");
    put_integer(&argument, by);
    if (!call("default", "wasmcloud:keyvalue", "KeyValue.Increment", argument, error)) return false;
    reader reply = read_from(*error);
    *now = get_integer(&reply);
    if (reply.failed) *error = text_of("KeyValue.Increment: the reply is no number");
    return !reply.failed;
}

// `exists` may be null; a key that is not there has an empty value.
static inline bool keyvalue_get(text key, text *found, bool *exists, text *error) {
    writer argument = {0};
    put(&argument, key);
    if (!call("default", "wasmcloud:keyvalue", "KeyValue.Get", argument, error)) return false;
    reader reply = read_from(*error);
    *found = (text){"", 0};
    bool there = false;
    for (size_t left = get_map(&reply); left; left--) {
        text name = get_text(&reply);
        if (is(name, "value")) *found = get_text(&reply);
        else if (is(name, "exists")) there = get_bool(&reply);
        else skip(&reply);
    }
    if (exists) *exists = there;
    if (reply.failed) *error = text_of("KeyValue.Get: the reply is not what the contract says");
    return !reply.failed;
}

static inline bool keyvalue_set(text key, text content, uint32_t expires_s, text *error) {
    writer argument = {0};
    put_map(&argument, 3);
    put_text(&argument, "key");
    put(&argument, key);
    put_text(&argument, "value");
    put(&argument, content);
    put_text(&argument, "expires");
    put_unsigned(&argument, expires_s);
    return call("default", "wasmcloud:keyvalue", "KeyValue.Set", argument, error);
}

// Level: "debug", "info", "warn" or "error". Needs the claim wasmcloud:builtin:logging, no link; printf needs neither.
static inline bool log_line(const char *level, text line) {
    writer argument = {0};
    text answer;
    put_map(&argument, 2);
    put_text(&argument, "level");
    put_text(&argument, level);
    put_text(&argument, "text");
    put(&argument, line);
    return call("default", "wasmcloud:builtin:logging", "Logging.WriteLog", argument, &answer);
}

// --- the entry point

typedef struct {
    const char *operation;
    bool (*handler)(reader argument, writer *result);
} guest_operation;

static inline int guest_serve(const guest_operation *table, size_t entries, size_t operation_length, size_t length) {
    char *operation = allocate(operation_length), *payload = allocate(length);
    guest_request(operation, payload);
    operation[operation_length] = 0;
    writer result = {0};
    int done = -1;
    for (size_t entry = 0; entry < entries && done < 0; entry++)
        if (strcmp(table[entry].operation, operation) == 0)
            done = table[entry].handler(read_from((text){payload, length}), &result);
    if (done < 0 && strcmp(operation, "Actor.HealthRequest") == 0) {
        put_map(&result, 1);
        put_text(&result, "healthy");
        put_bool(&result, true);
        done = 1;
    }
    if (done < 0) {
        const char *words = "Guest call failed for method %s: method not handled %s - unknown method";
        done = fail(&result, words, operation, operation);
    }
    if (done) guest_response(result.at, result.length);
    else guest_error(result.at, result.length);
    guest_free_blocks();
    return done;
}

#define ACTOR(...)                                                                                      \
    static const guest_operation guest_table[] = {__VA_ARGS__};                                         \
    __attribute__((export_name("__guest_call"))) int guest_call(size_t operation, size_t payload) {     \
        return guest_serve(guest_table, sizeof guest_table / sizeof *guest_table, operation, payload);  \
    }
