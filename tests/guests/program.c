// An actor that is also a program: the host calls _start, which runs main, before the first operation.
#include <stdio.h>
#include <stdlib.h>

__attribute__((import_module("wasmbus"), import_name("__guest_response"))) void guest_response(const void *, size_t);

static int arguments;
static char name[32];

int main(int argc, char **argv) {
    arguments = argc;
    snprintf(name, sizeof name, "%s", argv[0]);
    printf("%s starts\n", name);
    return EXIT_CODE;
}

__attribute__((export_name("__guest_call"))) int guest_call(size_t operation, size_t payload) {
    char text[64];
    guest_response(text, snprintf(text, sizeof text, "%d %s", arguments, name));
    return 1;
}
