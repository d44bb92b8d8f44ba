/* Writes bytes that are no text, in lines without end and as fast as it can, and never reads its standard input. */
#include <stdio.h>
#include <string.h>

int main(void) {
    static char block[65536];
    static const char opening[] = "\x1b]0;owned\x07\x1b[2J\xff\xfe\x80 {\"event\": {}}\n{\"event\": 5\n\0\n";
    fwrite(opening, 1, sizeof opening - 1, stdout);
    for (size_t i = 0; i < sizeof block; i++) block[i] = (char)(i * 2654435761u >> 24);
    for (;;) fwrite(block, 1, sizeof block, stdout);
}
