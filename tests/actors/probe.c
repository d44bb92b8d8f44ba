// An actor that exercises the C library in actors/c: what tests/actors/test_c_library.py asks for.
#include "guest.h"

// Reads one value with all that is in it, and writes it again.
static bool copy_value(reader *from, writer *to, int depth) {
    if (depth > 100) return false;
    value found = get(from);
    if (from->failed) return false;
    size_t items = found.number;
    switch (found.kind) {
    case NIL: put_nil(to); return true;
    case BOOLEAN: put_bool(to, found.number); return true;
    case INTEGER: found.negative ? put_integer(to, (int64_t)found.number) : put_unsigned(to, found.number); return true;
    case FLOAT: {
        double number;
        memcpy(&number, &found.number, sizeof number);
        put_float(to, number);
        return true;
    }
    case TEXT: put(to, found.bytes); return true;
    case BYTES: put_bytes(to, found.bytes.at, found.bytes.length); return true;
    case ARRAY:
        put_array(to, items);
        break;
    case MAP:
        put_map(to, items);
        items *= 2;
        break;
    case OTHER: return false;
    }
    while (items--)
        if (!copy_value(from, to, depth + 1)) return false;
    return true;
}

static bool copy(reader argument, writer *result) {
    return copy_value(&argument, result, 0) || fail(result, "no value");
}

// Skips the first of two values and answers with the second, an integer.
static bool second(reader argument, writer *result) {
    skip(&argument);
    int64_t number = get_integer(&argument);
    if (argument.failed) return fail(result, "no second number");
    put_integer(result, number);
    return true;
}

static bool page(reader argument, writer *result) {
    http_request request;
    if (!http_read(argument, &request)) return fail(result, "no request");
    text name = http_query(&request, "name"), agent = http_header(&request, "User-Agent");
    if (is(request.path, "/echo")) return http_respond(result, 200, "application/octet-stream", request.body);
    return http_respond(result, 404, "text/plain",
                        format("%.*s %.*s [%.*s] [%.*s]", (int)request.method.length, request.method.at,
                               (int)request.path.length, request.path.at, (int)name.length, name.at, (int)agent.length,
                               agent.at));
}

static bool store(reader argument, writer *result) {
    text key = get_text(&argument), error, found;
    int32_t now;
    bool exists;
    if (!keyvalue_set(key, text_of("4"), 60, &error)) return fail(result, "set: %.*s", (int)error.length, error.at);
    if (!keyvalue_increment(key, -3, &now, &error)) return fail(result, "add: %.*s", (int)error.length, error.at);
    if (!keyvalue_get(key, &found, &exists, &error)) return fail(result, "get: %.*s", (int)error.length, error.at);
    log_line("warn", key);
    put(result, format("%d %d %.*s", now, exists, (int)found.length, found.at));
    return true;
}

static bool ask(reader argument, writer *result) {
    text reply;
    writer question = {0};
    put(&question, get_text(&argument));
    if (!call("", "demo/other", "Other.Ask", question, &reply)) return fail(result, "%.*s", (int)reply.length, reply.at);
    put_raw(result, reply.at, reply.length);
    return true;
}

ACTOR({"Probe.Copy", copy}, {"Probe.Second", second}, {"HttpServer.HandleRequest", page}, {"Probe.Store", store},
      {"Probe.Ask", ask})
