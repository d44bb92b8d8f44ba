// Tries what WASI offers; the operation says what, the answer is text. Built for wasm32-wasi by tests/support/c.py.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasmbus"), import_name(#name)))
IMPORT(__guest_request) void guest_request(char *operation, char *payload);
IMPORT(__guest_response) void guest_response(const char *where, size_t length);
IMPORT(__guest_error) void guest_error(const char *where, size_t length);
IMPORT(__console_log) void console_log(const char *where, size_t length);

extern char **environ;
static char answer[8192];

static int is(const char *operation, const char *name) { return strcmp(operation, name) == 0; }

static const char *outcome(int failed) { return failed ? strerror(errno) : "it worked"; }

static void try_files(void) {
    char *to = answer;
    to += sprintf(to, "open: %s\n", outcome(open("/etc/passwd", O_RDONLY) < 0));
    to += sprintf(to, "create: %s\n", outcome(open("new", O_CREAT | O_WRONLY, 0600) < 0));
    to += sprintf(to, "fopen: %s\n", outcome(fopen("../../etc/passwd", "r") == NULL));
    to += sprintf(to, "list: %s\n", outcome(opendir(".") == NULL));
    to += sprintf(to, "make: %s\n", outcome(mkdir("folder", 0700)));
    to += sprintf(to, "remove: %s\n", outcome(unlink("file")));
    to += sprintf(to, "link: %s\n", outcome(symlink("a", "b")));
    struct stat found;
    to += sprintf(to, "look: %s\n", outcome(stat("/", &found)));
}

static void print(const char *payload) {
    printf("%s", payload);
    fprintf(stderr, "warning: %s\n", payload);
    printf("\nsecond line");
    console_log("console", 7);
    printf(" ends here\n");
    printf("never ended");
    fflush(stdout);
}

static void sleep_ms(long ms) {
    struct timespec before, after, pause = {ms / 1000, ms % 1000 * 1000000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long long slept = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
    sprintf(answer, "%lld", slept);
}

__attribute__((export_name("__guest_call"))) int guest_call(size_t operation_length, size_t payload_length) {
    char *operation = calloc(1, operation_length + 1), *payload = calloc(1, payload_length + 1);
    guest_request(operation, payload);
    answer[0] = 0;
    size_t length = 0;
    if (is(operation, "Files")) {
        try_files();
    } else if (is(operation, "Environment")) {
        sprintf(answer, "%s, %s", environ && environ[0] ? environ[0] : "none", getenv("PATH") ? "PATH" : "no PATH");
    } else if (is(operation, "Input")) {
        char text[16];
        sprintf(answer, "%d %d %d", (int)read(0, text, sizeof text), fgetc(stdin) == EOF, isatty(1));
    } else if (is(operation, "Print")) {
        print(payload);
    } else if (is(operation, "Flood")) {
        for (int line = 0; line < 100000; line++) printf("line %d\n", line);
    } else if (is(operation, "Sleep")) {
        sleep_ms(atol(payload));
    } else if (is(operation, "Time")) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        sprintf(answer, "%lld", now.tv_sec * 1000000000LL + now.tv_nsec);
    } else if (is(operation, "Random")) {
        length = atol(payload);
        for (size_t at = 0; at < length; at += 256) getentropy(answer + at, length - at < 256 ? length - at : 256);
    } else if (is(operation, "Poll")) {
        struct pollfd streams[] = {{0, POLLIN, 0}, {1, POLLOUT, 0}, {9, POLLIN, 0}};
        int ready = poll(streams, 3, 1000);
        sprintf(answer, "%d %d %d %d", ready, streams[0].revents != 0, streams[1].revents != 0, streams[2].revents != 0);
    } else if (is(operation, "Exit")) {
        exit(atoi(payload));
    } else if (is(operation, "Abort")) {
        fprintf(stderr, "about to give up\n");
        abort();
    } else {
        guest_error(operation, operation_length);
        return 0;
    }
    guest_response(answer, length ? length : strlen(answer));
    free(operation);
    free(payload);
    return 1;
}
