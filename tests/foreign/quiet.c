/* Serves calls and knows nothing else: no health, no links, no shutdown. Answers every call with the text "quiet". */
#include "nats.h"

int main(void) {
    char lattice[128], key[128], link[128], reply[256];
    static char content[1 << 20];
    size_t length;
    read_host_data();
    member("lattice_rpc_prefix", lattice);
    member("provider_key", key);
    member("link_name", link);
    connect_nats();
    send_line("SUB wasmbus.rpc.%s.%s.%s rpc 1", lattice, key, link);
    for (;;) {
        next_message(reply, content, &length);
        /* {"msg": bin "\xa5quiet", "invocation_id": ""} */
        static const char answer[] = "\x82\xa3msg\xc4\x06\xa5quiet\xadinvocation_id\xa0";
        if (!reply[0]) continue;
        fprintf(wire, "PUB %s %zu\r\n", reply, sizeof answer - 1);
        fwrite(answer, 1, sizeof answer - 1, wire);
        send_line("");
    }
}
