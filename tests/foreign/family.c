/* Has children: one in its own process group, one that left it as daemons do. Nobody of them listens to SIGTERM.
   What they are is written to standard output; the daemon keeps it open. With a file called "die" in its working
   folder it ends by itself once they are there. */
#define _GNU_SOURCE
#include "nats.h"
#include <signal.h>

static void stay(const char *name) {
    printf("%s %d\n", name, getpid());
    fflush(stdout);
    for (;;) pause();
}

int main(void) {
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    read_host_data();
    if (fork() == 0) stay("child");
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            if (chdir("/")) return 1;
            stay("daemon");
        }
        _exit(0);
    }
    connect_nats();
    printf("parent %d\n", getpid());
    fflush(stdout);
    sleep(access("die", F_OK) ? 600 : 1);
    return 9;
}
