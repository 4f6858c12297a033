// Answers with a greeting and its parameters. Compile with Debian's clang, lld, wasi-libc and
// libclang-rt-dev-wasm32:
//
//   clang --target=wasm32-wasi -Os -o hello.wasm hello.c
//
// Parameters come on standard input and the result goes to standard output, both JSON; what is
// written to standard error is shown to callers who ask for output.

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    static char params[1 << 20];
    size_t length = fread(params, 1, sizeof params, stdin);
    if (length == sizeof params) {
        fprintf(stderr, "the parameters are too long\n");
        return 1;
    }
    fprintf(stderr, "%s runs for %s\n", argv[0], getenv("REQUEST_ID"));
    printf("{\"message\": \"Hello from C!\", \"params\": %.*s}\n", (int)length, params);
    return 0;
}
