/* Ends at once, before it has read a byte. */
#include <stdio.h>

int main(void) {
    fputs("no configuration in sight\n", stderr);
    return 7;
}
